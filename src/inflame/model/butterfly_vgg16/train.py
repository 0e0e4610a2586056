"""The training, from photos to bundle, as it happens. Change anything: nothing here is hidden behind a class."""

from functools import partial
from typing import Any

from torch import nn
from torch.optim import AdamW

from inflame.artifact import augment, loader, reading
from inflame.config import Settings
from inflame.errors import ExportError
from inflame.model.engine import bundle, conclude, keras, optim, session
from inflame.model.engine.learner import Learner
from inflame.records import Preprocess

from .net import begin, layers

EXAMPLES = 8  # held-out photos on which the saved models must answer like the bundle
SAVING, TENSORFLOW = 6.0, 14.0  # seconds that the bundle and Keras' file take at the end, and SavedModel beside them


def train(settings: Settings) -> dict[str, Any]:
    """Fine-tunes, tests, bundles and reports; returns the result."""
    h = settings.hyperparam
    with session.begin(settings, epochs=h.num_epochs) as s:
        s.reserve = SAVING + (TENSORFLOW if keras.tensorflow() else 0.0)

        # 1. Data: decoded once into a cache on disk; every epoch another window of each photo, mirrored every other.
        plan = Preprocess(size=h.size, resize=round(h.size * h.margin), mean=keras.MEAN, std=keras.STD)
        stream = partial(reading.Stream, plan=plan, batch_size=h.batch_size, seed=settings.seed)
        read = partial(stream, cache_gb=settings.cache_gb, say=lambda text: s.say("data", text))
        changes = augment.chain(
            partial(augment.zoom, size=h.size, smallest=h.smallest), augment.flip, partial(augment.colour, by=h.colour)
        )
        batches = read(s.dataset.split("train"), shuffle=True, transform=changes)
        pictures = loader.load(s.held_out(), plan, progress=s.progress("decoding"))

        # 2. What learns, and how: the head at the full rate, earlier blocks slower; from scratch all of them alike.
        keras.on_torch().utils.set_random_seed(settings.seed)
        net = keras.vgg16(size=h.size, classes=len(s.dataset.classes), dropout=h.dropout)
        begun = begin(net, settings.weights, lambda text: s.say("weights", text))
        learning, decay = layers(net, h.tune, fresh=not begun), h.layer_decay if begun else 1.0
        rates = optim.layered(learning, learning_rate=h.learning_rate, weight_decay=h.weight_decay, decay=decay)
        criterion = nn.CrossEntropyLoss(label_smoothing=h.label_smoothing)
        how = f"VGG16 of Keras at {h.size} px, {f'{h.tune} tuned from {begun}' if begun else 'from scratch'}"
        finished = partial(s.model, preprocess=plan, pictures=pictures, how=how)
        learner = Learner(
            net=net,
            criterion=criterion,
            optimizer=AdamW(rates),
            schedule=optim.cosine(h.warmup),
            device=s.pace(net, batches, criterion, epochs=h.num_epochs),  # the fastest way on this machine
            train_loader=batches,
            val_loader=read(s.dataset.split("val")),
            hooks=s.hooks(finished, pictures, patience=h.patience),
        )

        # 3. Train until the epochs or the time are used up; keep the best epoch.
        s.fit(learner, epochs=h.num_epochs)
        s.best(learner)

        # 4. The bundle; the same net for Keras, and for TensorFlow where it is installed: checked on held-out photos.
        model = finished(learner)
        conclude.publish(s.run, s.dataset, model, pictures)
        predictor = bundle.Predictor(s.run.path / "bundle")
        held = pictures.get("val") or pictures["train"]
        examples = loader.centre(held.pixels[:EXAMPLES], h.size).numpy()
        file = s.run.path / "model.keras"
        keras.save(net, predictor, file, examples=examples)
        s.say("keras", f"{file.name} in the run folder answers like the bundle")
        try:
            if keras.saved_model(file, s.run.path / "saved_model", predictor, examples=examples):
                s.say("keras", "saved_model, for TensorFlow, too")
        except ExportError as error:  # what another program can't do doesn't spoil a training
            s.say("keras", f"no saved_model. {error.message} {error.remedy}")

        # 5. Calibrate on the held-out photos, look at the test split once, report.
        return conclude.conclude(s.run, s.dataset, model, pictures, published=model)
