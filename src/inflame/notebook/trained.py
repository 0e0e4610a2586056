"""A finished run as an object: what it was tested with, answers, a website. Needs no torch."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, final

from inflame import runs
from inflame.errors import BundleError, UserError
from inflame.notebook import display
from inflame.records import Prediction

if TYPE_CHECKING:
    from inflame.model.engine.predictor import Predictor, Source
    from inflame.notebook.site import Site
    from inflame.runs import Run

SHOWN = 8  # examples


def open(run: str | os.PathLike[str] = "") -> Trained:
    """The model of a run: its name or folder; the last one when none is named. None such: DataError or BundleError."""
    found = runs.find(os.fspath(run)) if run else runs.latest()
    if found is None:
        raise BundleError("There is no trained model yet.", remedy='inflame.train("photos", minutes=1)')
    return Trained(found)


@final
class Trained:
    """A trained model. In a notebook it shows the report of its run: how good, curves, confusion, worst mistakes."""

    def __init__(self, run: Run) -> None:
        if run.bundle is None:
            raise BundleError(
                f"The run {run.name} has made no model; it is {run.state}.",
                where=str(run.path),
                remedy="Train again: the same call goes on.",
            )
        self.run = run

    @functools.cached_property
    def predictor(self) -> Predictor:
        """What answers: numpy in, calibrated probabilities out."""
        from inflame.model.engine.predictor import Predictor

        assert self.run.bundle is not None
        return Predictor(self.run.bundle)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that answers have."""
        return self.predictor.classes

    def test(self) -> display.Score:
        """How good it is on the test split, which was looked at once; on held-out items where there is none."""
        found = self._score()
        if found is None:
            raise UserError(
                f"The run {self.run.name} is {self.run.state}, so it wasn't tested.",
                remedy="Train again: the same call goes on.",
            )
        return found

    def __call__(self, source: Source, top: int = 3) -> display.Answer:
        """The answer to a picture (a file, its bytes, uint8 pixels) or a text (a file; a string that is no file)."""
        if isinstance(source, str) and not Path(source).is_file() and self._reads_texts():
            source = source.encode()
        (said,) = self.predictor.predict([source], top)
        return self._answer(said, source)

    def examples(self, count: int = SHOWN) -> display.Examples:
        """Some of the training items that the model shows beside its answers, with what they are."""
        from inflame.model.engine.nearest import Nearest

        content = self.predictor.nearest
        items = Nearest(content, text=self._reads_texts()).some(count) if content else ()
        return display.Examples(items=items)

    def report(self) -> Path:
        """The page about the run, made again where it is missing."""
        page = self.run.path / "report.html"
        if not page.is_file():
            from inflame.model.engine.report import report

            report(self.run.path)
        return page

    def serve(self, port: int = 0) -> Site:
        """Its website on this machine, beside this process: shows itself in a notebook; `.stop()` ends it."""
        from inflame.notebook.site import Site

        return Site(self.run.path, port)

    def _answer(self, said: Prediction, source: Source) -> display.Answer:
        shown = b""
        if not self._reads_texts() and isinstance(source, (str, Path)):
            shown = Path(source).read_bytes()
        elif not self._reads_texts() and isinstance(source, bytes):
            shown = source
        return display.Answer(prediction=said, picture=display.thumb(shown) if shown else b"")

    def _score(self) -> display.Score | None:
        status = self.run.read_status()
        for split in ("test", "val"):
            if found := status.get(split):
                return display.Score(split=split, **{key: found[key] for key in ("accuracy", "low", "high", "n")})
        return None

    def _reads_texts(self) -> bool:
        return hasattr(self.predictor.preprocess, "words")

    def __repr__(self) -> str:
        about = self.run.read_status()
        return f"{about.get('model')} of {about.get('dataset')}: {self._score() or 'not tested'} ({self.run.path})"

    def _repr_html_(self) -> str:
        return display.framed(self.report().read_text(encoding="utf-8"))
