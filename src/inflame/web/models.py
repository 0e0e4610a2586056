"""A model that answers: a bundle with what the website needs around it. It lives in a process of its own (process.py).

A bundle is loaded only from a folder named on the command line, every byte checked by its hash; it answers its canaries
before anyone else.
"""

from __future__ import annotations

import functools
import hashlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image

from inflame import host
from inflame.artifact import magic, preprocess, seen
from inflame.errors import BundleError, InflameError
from inflame.model.engine.bundle import Predictor
from inflame.model.engine.nearest import Near, Nearest
from inflame.model.engine.novelty import Novelty
from inflame.monitor.entries import Entry
from inflame.records import Prediction, Preprocess, TextPreprocess
from inflame.web import runtimes
from inflame.web.answers import Answer, level
from inflame.web.crowd import Crowd
from inflame.web.settings import LONG, Settings

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "HEIF")
_DRIFTED = 1e-3  # by so much may the answer to a canary change while the model is served
_OTHERWISE = 0.1  # and from where the bundle was made: decoders differ a little, and so do numbers of 8 bits

Content = bytes


@final
class Model:
    """One version of one model. Safe to share between threads."""

    def __init__(self, name: str, folder: Path, settings: Settings) -> None:
        self.name, self.settings = name, settings
        self.predictor = Predictor(folder)
        self.runtime = runtimes.choose(self.predictor, settings.runtime)
        info = self.predictor.info
        self.version, self.created = self.predictor.version, str(info.get("created", ""))
        self.classes, self.about = self.predictor.classes, info
        plan = self.predictor.preprocess
        self.text = isinstance(plan, TextPreprocess)
        self._plan = _strict(plan, settings.pixels)
        self.size, self.channels = getattr(plan, "size", 0), getattr(plan, "channels", 0)  # of pictures, prepared
        self.card = (folder / "card.md").read_text(encoding="utf-8")
        packed = self.predictor.nearest
        self.nearest = Nearest(packed, text=self.text) if packed else None
        self._novelty = Novelty(self.predictor.reference, self.nearest)
        self.limit = self._novelty.limit
        self.canaries = self._some()
        asked = self._canary_answers()
        self._compare(asked)
        self._right = _certain(asked)
        self.single = self.seconds >= LONG
        self._shared()

    def _shared(self) -> None:
        """Lets the net run for many at once; and for one thing at a time, where that is how it is asked."""
        one = self.single and not self.text
        narrow = functools.partial(runtimes.narrow, self.predictor, self.runtime)
        usual = self.predictor.use(None)
        if one and (made := runtimes.single(self.predictor, self.runtime)) is not None:
            self.predictor.use(Crowd(made, host.cores(), functools.partial(narrow, one=True)))
            if self.alive():
                return
        self.predictor.use(Crowd(usual, host.cores(), narrow))

    def answer(
        self, contents: Sequence[Content], at: Callable[[int], None] = lambda _: None
    ) -> list[Answer | InflameError]:
        """One answer for the bytes of each picture or text, or the error that says why there is none. `at` is told
        which content is read next, and -1 when all are."""
        began = time.perf_counter()
        read = []
        for place, content in enumerate(contents):
            at(place)
            read.append(self._read(content))
        at(-1)
        good = [(content, item) for content, item in zip(contents, read, strict=True) if not _failed(item)]
        answers = iter(self._judged(good, began) if good else ())
        return [item if isinstance(item, InflameError) else next(answers) for item in read]

    def explain(self, content: Content, label: str = "", near: int = 6) -> Any:
        """Why; see engine/explain.py. The same limits hold as for answers."""
        failed = self._read(content)
        if isinstance(failed, InflameError):
            raise failed
        return self.predictor.explain(content, label=label, near=near)

    def shown(self, count: int) -> list[Near]:
        """Some training items, of different classes as far as there are."""
        return self.nearest.various(count) if self.nearest is not None else []

    def again(self, entry: Entry) -> Answer:
        """The answer that an entry of the log is about."""
        shares = np.asarray(entry.probabilities, np.float64)
        order = np.argsort(-shares, kind="stable")
        top = tuple((self.classes[i], float(shares[i])) for i in order)
        known = bool(self.predictor.calibration.known(shares[None])[0])
        members = self.predictor.calibration.sets(shares[None])[0]
        said = Prediction(label=entry.label, probability=entry.probability, top=top, known=known)
        vector, like = np.asarray(entry.embedding, np.float32), np.asarray(entry.seen, np.float32)
        far = float(self._novelty(vector[None], like[None])[0]) if len(vector) else 0.0
        unlike = 0 < self.limit < far
        return Answer(
            label=entry.label,
            probability=entry.probability,
            top=top,
            set=tuple(self.classes[i] for i in order if members[i]),
            known=known,
            unlike=unlike,
            level=level(said, unlike=unlike),
            distance=far,
            limit=self.limit,
            sha256=entry.input,
            model=self.name,
            version=self.version,
            seconds=entry.latency,
            id=entry.id,
            time=entry.time,
        )

    def _in_order(self, top: Sequence[tuple[str, float]]) -> tuple[float, ...]:
        shares = dict(top)
        return tuple(shares[name] for name in self.classes)

    def alive(self) -> bool:
        """Whether the canaries are answered as they were when the model was loaded."""
        now = _certain(self._canary_answers())
        return len(now) == len(self._right) and bool(np.allclose(now, self._right, atol=_DRIFTED))

    def _canary_answers(self) -> list[Answer]:
        found: list[Answer] = []
        for canary in self.canaries:  # as one batch they would take more memory, for good
            began = time.perf_counter()
            (one,) = self.answer([canary])
            self.seconds = time.perf_counter() - began  # that of the last: the first ones warm it up
            if isinstance(one, InflameError):
                raise BundleError(
                    f"The model can't answer one of its own training items: {one.message}",
                    where=str(self.predictor.folder),
                    remedy="Train again, or serve another run: inflame runs",
                )
            found.append(one)
        if not np.isfinite(_certain(found)).all():
            raise BundleError(
                "The model answers with what is no number.",
                where=str(self.predictor.folder),
                remedy="Train again, or serve another run: inflame runs",
            )
        return found

    def _compare(self, found: Sequence[Answer]) -> None:
        """With what was recorded when the bundle was made. Raises BundleError where the answers are others: a runtime
        or a processor that computes wrongly must not answer anyone."""
        recorded = self.about.get("canaries") or []  # older bundles have none
        for number, (one, then) in enumerate(zip(found, recorded, strict=False), start=1):
            shares = dict(one.top)
            for place, share in then:
                name = self.classes[int(place)]
                if not abs(shares[name] - share) <= _OTHERWISE:
                    raise BundleError(
                        f"The model answers otherwise here than where it was made: its canary {number} is {name} with "
                        f"{shares[name]:.3f} by {self.runtime.runtime}, and was with {share:.3f}.",
                        where=str(self.predictor.folder),
                        remedy="Name another runtime (--runtime onnxruntime), or upgrade onnxruntime and Pillow.",
                    )

    def _some(self) -> list[Content]:
        return (self.nearest.canaries() if self.nearest is not None else []) or [_blank(self)]

    def _read(self, content: Content) -> Any:
        """The content as the net takes it, or the error that says why not."""
        try:
            if self._plan is None:
                return self.predictor.read(content)
            check_format(content)
            return preprocess.pixels(content, self._plan)
        except InflameError as error:
            return error

    def _judged(self, good: Sequence[tuple[Content, Any]], began: float) -> list[Answer]:
        inputs = self.predictor.stack([item for _, item in good])
        logits, embedding = self.predictor.run(inputs)
        predictions = self.predictor.judge(inputs, logits, top_k=len(self.classes))
        like = [seen.text(content) if self.text else seen.picture(item, content) for content, item in good]
        far = self._novelty(embedding, np.stack([numbers for numbers, _ in like])).tolist()
        taken = time.perf_counter() - began
        found = []
        for (content, _), said, vector, (numbers, kind), distance in zip(
            good, predictions, embedding, like, far, strict=True
        ):
            unlike = 0 < self.limit < distance
            found.append(
                Answer(
                    label=said.label,
                    probability=said.probability,
                    top=said.top,
                    set=said.set,
                    known=said.known,
                    unlike=unlike,
                    level=level(said, unlike=unlike),
                    distance=distance,
                    limit=self.limit,
                    sha256=hashlib.sha256(content).hexdigest(),
                    model=self.name,
                    version=self.version,
                    seconds=taken,
                    embedding=vector.astype(np.float16).tobytes(),
                    shares=self._in_order(said.top),
                    seen=numbers.tobytes(),
                    kind=kind,
                )
            )
        return found


def check_format(content: Content) -> None:
    """Refuses by its first bytes what is a picture, but of no allowed format. Raises PictureError."""
    found = magic.sniff(content)
    if found.format and found.format not in FORMATS:
        raise preprocess.PictureError(
            f"{found.format} files aren't taken here",
            kind="not_a_picture",
            remedy="send a JPEG, PNG, WebP, GIF or AVIF",
        )


def _strict(plan: Preprocess | TextPreprocess, pixels: int) -> Preprocess | None:
    """The plan for pictures, with so many pixels at most; None for texts."""
    return None if isinstance(plan, TextPreprocess) else replace(plan, max_pixels=min(plan.max_pixels, pixels))


def _certain(answers: Sequence[Answer]) -> np.ndarray[Any, Any]:
    return np.array([one.probability for one in answers])


def _failed(item: Any) -> bool:
    return isinstance(item, InflameError)


def _blank(model: Model) -> Content:
    """Something that every model can read."""
    if model.text:
        return b"a text of some words"
    content = io.BytesIO()
    Image.new("RGB", (64, 64), (127, 127, 127)).save(content, "PNG")
    return content.getvalue()
