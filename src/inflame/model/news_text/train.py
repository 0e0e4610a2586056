"""The training, from texts to bundle, as it happens. Change anything: nothing here is hidden behind a class."""

from typing import Any

from inflame.config import Settings
from inflame.model.engine import conclude, sentences, session, wording


def train(settings: Settings) -> dict[str, Any]:
    """Trains, tests, bundles and reports; returns the result."""
    h = settings.hyperparam
    with session.begin(settings) as s:
        # 1. Data: words and pairs of words are counted. What is held out is needed for nothing else: folds do it all.
        preprocess, items = wording.load(s, least=h.least, pairs=h.pairs)
        body = sentences.load(settings.weights) if settings.weights else None

        # 2. The matrix: an SVM blended with naive Bayes; strength and blend by cross-validation.
        found = wording.fit(s, preprocess, items["train"], folds=h.folds, strengths=h.strengths)

        model = wording.model(s, preprocess, items["train"], found)

        # 3. With weights=FOLDER: a sentence model, frozen, instead where it has more right answers out of fold.
        if body is not None:
            other, pieces = wording.frozen(s, body, folds=h.folds)
            if (other.logits.argmax(1) == other.labels).mean() > found.accuracy:
                model, items = other, pieces

        # 4. Calibrate on the out-of-fold answers, look at the test split once, bundle, report.
        return conclude.conclude(s.run, s.dataset, model, items)
