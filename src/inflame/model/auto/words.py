"""The road for texts: majority → a linear model of words and their pairs → the sentence model of `weights=FOLDER`."""

from __future__ import annotations

from typing import Any

from inflame.config import Settings
from inflame.model.engine import conclude, sentences, wording
from inflame.model.engine.bagging import STRENGTHS
from inflame.model.engine.session import Session

from . import balance
from .ladder import Ladder, majority


def train(s: Session, settings: Settings) -> dict[str, Any]:
    """Climbs the ladder; returns the result."""
    preprocess, items = wording.load(s)
    body = sentences.load(settings.weights) if settings.weights else None
    train, h = items["train"], settings.hyperparam
    ladder, labels = Ladder(s, confidence=h.confidence), train.labels.numpy()
    base = majority(labels, labels, len(s.dataset.classes))
    ladder.first("majority", base, labels)
    found = wording.fit(s, preprocess, train, folds=min(h.folds, 3), strengths=STRENGTHS)
    ladder.climb("words", base, found.held, labels, note="out of fold")
    s.reasons.stage("words")
    if body is not None:
        other, pieces = wording.frozen(s, body, folds=h.folds)
        if ladder.climb("sentences", found.held, other.logits, labels, note="out of fold"):
            other = balance.balanced(ladder, other, labels, classes=len(s.dataset.classes))
            s.reasons.chose(road="texts", sentences=True, folds=h.folds)
            return conclude.conclude(s.run, s.dataset, other, pieces, ladder=ladder.rungs)
    model = wording.model(s, preprocess, train, found)
    model = balance.balanced(ladder, model, labels, classes=len(s.dataset.classes))
    s.reasons.chose(road="texts", strength=found.strength, folds=min(h.folds, 3))
    return conclude.conclude(s.run, s.dataset, model, items, ladder=ladder.rungs)
