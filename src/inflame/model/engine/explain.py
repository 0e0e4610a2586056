"""Why a model answers what it answers: where on a picture, which words of a text, and what in the training is like it.

Pictures: where the last step of the net is a pooling and the head is one that we know, the gradient of the answer by
what is pooled, times that (Grad-CAM, Selvaraju et al., 2017, arXiv:1610.02391; with a linear head it is the class
activation map of Zhou et al., 2016), in closed form, without torch. Else, or where that map is too coarse to say where,
parts of the picture are covered in turn and the answer is watched (Zeiler & Fergus, 2014, arXiv:1311.2901). Of a net
that looks at the mirror image too, the map is that of the picture as it is.

Texts: of a bag of words the sum over words is exact. Of a sentence model each word is left out in turn.

What is explained is the logit of a class less the mean of all: what speaks for all classes alike decides nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from inflame.artifact import texts
from inflame.errors import BundleError, DataError, did_you_mean
from inflame.model.engine.nearest import Near, Nearest
from inflame.model.engine.seal import WEIGHTS
from inflame.records import Prediction, TextPreprocess

if TYPE_CHECKING:
    from inflame.model.engine.predictor import Predictor, Source

COARSE = 4  # cells on a side below which a map can't say where
PATCH = 5  # a covered part is a fifth of the picture wide, and moved by half of that
BATCH = 32
CLOSE = 1e-2  # so near must our own head come to the logits of the net, else it isn't the head we think

Floats = NDArray[np.float32]
Inputs = dict[str, NDArray[Any]]
Seen = dict[str, Floats]  # what `Predictor.look` gives


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """`text[start:end]`, and what it adds to the logit of the label."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why `label`. Of a picture: `heat` float32 [size,size], 0 to 1, on `picture` uint8 [size,size,C], the net's input.
    Of a text: the known `words` of `text` in order; `terms`, the words and pairs with what they add, the strongest
    first; where `how` is "words", `bias` and the weights of all words add up to the logit
    less the mean of all logits."""

    prediction: Prediction
    label: str
    how: str  # "gradient", "covering", "words" or "leaving out"
    near: tuple[Near, ...] = ()
    heat: Floats | None = None
    picture: NDArray[np.uint8] | None = None
    text: str = ""
    words: tuple[Word, ...] = ()
    terms: tuple[tuple[str, float], ...] = ()
    bias: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """What fits into a line: without pictures."""
        said: dict[str, Any] = {"label": self.label, "how": self.how, "near": [one.to_json() for one in self.near]}
        return {**said, "words": [list(term) for term in self.terms[:20]]} if self.text else said


@final
class Explainer:
    """Explains answers of a predictor. `nearest`: the content of nearest.npz, or nothing."""

    def __init__(self, predictor: Predictor, nearest: bytes) -> None:
        self.predictor = predictor
        plan = predictor.preprocess
        self._plan = plan if isinstance(plan, TextPreprocess) else None
        self._vectoriser = texts.Vectoriser(plan) if isinstance(plan, TextPreprocess) else None
        self._nearest = Nearest(nearest, text=self._plan is not None) if nearest else None
        self._weights: dict[str, Floats] | None = None

    def __call__(self, source: Source, label: str, near: int) -> Explanation:
        """See `Predictor.explain`."""
        (prediction,) = self.predictor.predict([source], top_k=1)
        label = self._label(label or prediction.label)
        inputs = self.predictor.prepare([source])
        seen = self.predictor.look(inputs)
        like = self._nearest(seen["embedding"][0], near) if self._nearest else ()
        wanted = self.predictor.classes.index(label)
        if self._plan is None:
            found = self._of_picture(inputs["pictures"][0], seen, wanted)
        else:
            found = self._of_text(source, inputs, wanted)
        return Explanation(prediction=prediction, label=label, near=like, **found)

    def _label(self, label: str) -> str:
        if label not in self.predictor.classes:
            raise DataError(
                f'The model has no class "{label}".{did_you_mean(label, self.predictor.classes)}',
                where=str(self.predictor.folder),
                remedy=f"Name one of its {len(self.predictor.classes)} classes: classes.json of the bundle.",
            )
        return label

    # --- pictures ------------------------------------------------------------------------------------

    def _of_picture(self, picture: NDArray[np.uint8], seen: Seen, wanted: int) -> dict[str, Any]:
        coarse = self._by_gradient(seen, wanted)
        how, heat = ("covering", self._by_covering(picture, wanted)) if coarse is None else ("gradient", coarse)
        heat = np.maximum(heat, 0)
        heat = heat / heat.max() if heat.max() > 0 else heat
        return {"how": how, "heat": _resized(heat, picture.shape[0]), "picture": picture}

    def _by_gradient(self, seen: Seen, wanted: int) -> Floats | None:
        """A map [h,w], or None where it can't be had or is too coarse."""
        maps = seen.get("map")
        if maps is None or min(maps.shape[2:]) < COARSE:
            return None
        gradient = self._gradient(seen["embedding"][0], seen["logits"][0], wanted)
        if gradient is None or len(gradient) != maps.shape[1]:
            return None
        return np.asarray(np.einsum("c,chw->hw", gradient, maps[0]), np.float32)

    def _gradient(self, embedding: Floats, logits: Floats, wanted: int) -> Floats | None:
        """That of the logit, less the mean of all, by the embedding [D]; None for a head that isn't ours."""
        state = self._state()
        for name, head in (("head", _linear), ("head.1", _hellinger)):
            weight = state.get(f"{name}.weight")
            if weight is None or weight.ndim != 2 or weight.shape[1] != len(embedding):
                continue
            bias = state.get(f"{name}.bias", np.zeros(len(weight), np.float32))
            features, pull = head(embedding)
            if np.allclose(weight @ features + bias, logits, atol=CLOSE * (1 + np.abs(logits).max())):
                return np.asarray(pull(weight[wanted] - weight.mean(axis=0)), np.float32)
        return None

    def _by_covering(self, picture: NDArray[np.uint8], wanted: int) -> Floats:
        """What is lost [size,size], for each place, when it is covered with the mean colour."""
        size, channels = picture.shape[0], picture.shape[2]
        mean = getattr(self.predictor.preprocess, "mean", (0.5,) * channels)
        colour = np.round(255 * np.array(mean[:channels])).astype(np.uint8)
        side = max(1, round(size / PATCH))
        starts = sorted({*range(0, size - side, max(1, side // 2)), size - side})
        places = [(top, left) for top in starts for left in starts]
        whole = self._margin({"pictures": picture[None]}, wanted)[0]
        lost, seen = np.zeros((size, size), np.float32), np.zeros((size, size), np.float32)
        for group in _grouped(places):
            covered = np.repeat(picture[None], len(group), axis=0)
            for row, (top, left) in enumerate(group):
                covered[row, top : top + side, left : left + side] = colour
            for (top, left), margin in zip(group, self._margin({"pictures": covered}, wanted), strict=True):
                lost[top : top + side, left : left + side] += whole - margin
                seen[top : top + side, left : left + side] += 1
        return lost / seen

    def _margin(self, inputs: Inputs, wanted: int) -> Floats:
        logits = self.predictor.run(inputs)[0]
        return np.asarray(logits[:, wanted] - logits.mean(axis=1), np.float32)

    # --- texts ---------------------------------------------------------------------------------------

    def _of_text(self, source: Source, inputs: Inputs, wanted: int) -> dict[str, Any]:
        from inflame.artifact.preprocess import read

        assert self._plan is not None
        content = source if isinstance(source, bytes) else read(source)[0]  # type: ignore[arg-type]
        told = texts.decode(content)[0]
        return self._by_leaving_out(told, inputs, wanted) if self._plan.pieces else self._by_words(told, wanted)

    def _by_words(self, told: str, wanted: int) -> dict[str, Any]:
        """Exact: a word's part of the sum, with half of each pair it is in."""
        assert self._vectoriser is not None
        text, spans = texts.spans(told)
        tokens = self._vectoriser.read(told)
        ids, at, width = self._vectoriser.entries(tokens)
        each, bias = self._added(ids, wanted)
        share = np.zeros(len(tokens))
        for second in (0, 1):
            inside = width > second
            np.add.at(share, at[inside] + second, each[inside] / width[inside])
        known = sorted({*at.tolist(), *(at[width == 2] + 1).tolist()})
        words = tuple(Word(start=spans[i][0], end=spans[i][1], weight=float(share[i])) for i in known)
        terms: dict[str, float] = {}
        for value, first, count in zip(each.tolist(), at.tolist(), width.tolist(), strict=True):
            name = " ".join(tokens[first : first + count])
            terms[name] = terms.get(name, 0.0) + value
        return {"how": "words", "text": text, "words": words, "terms": _ranked(terms), "bias": bias}

    def _added(self, ids: NDArray[np.int64], wanted: int) -> tuple[NDArray[np.float64], float]:
        """What each entry (of those that are counted, with repetitions) adds to the logit less the mean of all logits,
        and what no word adds."""
        state = self._state()
        head = state["head.weight"] - state["head.weight"].mean(axis=0)
        bias = state["head.bias"] - state["head.bias"].mean()
        kinds, which, counts = np.unique(ids, return_inverse=True, return_counts=True)
        weights = (1 + np.log(counts)) * state["body.idf"][kinds]
        weights = weights / max(float(np.linalg.norm(weights)), 1e-6)
        values = weights * (state["body.weight"][kinds] @ head[wanted]) / counts
        return values[which].astype(np.float64), float(bias[wanted])

    def _by_leaving_out(self, told: str, inputs: Inputs, wanted: int) -> dict[str, Any]:
        """What is lost when a word's pieces aren't seen."""
        assert self._vectoriser is not None
        pieces = self._vectoriser.read(told)[1:-1]  # between the signs of start and end
        starts = [place for place, piece in enumerate(pieces) if not piece.startswith("##")]
        groups = [range(a, b) for a, b in zip(starts, [*starts[1:], len(pieces)], strict=True)]
        shown = [re.sub("^##", "", pieces[group[0]]) + "".join(pieces[i][2:] for i in group[1:]) for group in groups]
        whole = self._margin(inputs, wanted)[0]
        lost: list[float] = []
        for part in _grouped(groups):
            repeated = {name: np.repeat(value, len(part), axis=0) for name, value in inputs.items()}
            for row, group in enumerate(part):
                repeated["counts"][row, [place + 1 for place in group]] = 0
            lost += (whole - self._margin(repeated, wanted)).tolist()
        ends = np.cumsum([len(word) + 1 for word in shown]).tolist()
        words = tuple(
            Word(start=end - 1 - len(word), end=end - 1, weight=value)
            for word, end, value in zip(shown, ends, lost, strict=True)
        )
        terms: dict[str, float] = {}
        for word, value in zip(shown, lost, strict=True):
            terms[word] = terms.get(word, 0.0) + value
        return {"how": "leaving out", "text": " ".join(shown), "words": words, "terms": _ranked(terms)}

    # --- weights -------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Floats]:
        """The float weights of the bundle by name. BundleError when they were changed since it was opened."""
        if self._weights is None:
            path = self.predictor.folder / WEIGHTS
            content = path.read_bytes() if path.is_file() else b""
            if hashlib.sha256(content).hexdigest() != self.predictor.info["sha256"][WEIGHTS]:
                raise BundleError(
                    f"{WEIGHTS} was changed since the bundle was opened.",
                    where=str(path),
                    remedy="Open the bundle again.",
                )
            self._weights = _tensors(content)
        return self._weights


def _tensors(content: bytes) -> dict[str, Floats]:
    """The float32 tensors of a safetensors file: the length of a header, the header as JSON, the numbers."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header.pop("__metadata__", None)
    found = {}
    for name, about in header.items():
        if about["dtype"] == "F32":
            first, last = about["data_offsets"]
            numbers = np.frombuffer(content, np.dtype("<f4"), (last - first) // 4, 8 + size + first)
            found[name] = numbers.reshape(about["shape"])
    return found


def _linear(embedding: Floats) -> tuple[Floats, Any]:
    """What a linear head sees, and how a gradient by that becomes one by the embedding."""
    return embedding, lambda pull: pull


def _hellinger(embedding: Floats) -> tuple[Floats, Any]:
    """The same of `nets.Hellinger` and a linear layer: r = x / sqrt(|x| + e), then 10 r / |r|."""
    size = np.abs(embedding) + np.float32(1e-3)
    rooted = embedding / np.sqrt(size)
    length = max(float(np.linalg.norm(rooted)), 1e-6)
    unit, slope = rooted / length, (size / 2 + 5e-4) / size**1.5
    return np.asarray(10 * unit, np.float32), lambda pull: slope * (10 / length) * (pull - unit * (unit @ pull))


def _ranked(terms: dict[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(terms.items(), key=lambda term: (-abs(term[1]), term[0])))


def _resized(heat: Floats, size: int) -> Floats:
    from PIL import Image

    if heat.shape == (size, size):
        return heat.astype(np.float32)
    image = Image.fromarray(heat.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(image, np.float32), 0, 1)


def _grouped(things: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(things), BATCH):
        yield things[start : start + BATCH]
