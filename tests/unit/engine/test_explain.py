"""Explanations point at what decides: a planted patch, a planted word, the very item that was trained on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from inflame.artifact import texts
from inflame.errors import BundleError, DataError
from inflame.model.engine import bundle, calibrate, explain, nearest, nets
from inflame.model.engine.bundle import Predictor
from inflame.records import Preprocess, TextPreprocess

SIDE, PATCH = 48, 10
COLOURS = ((230, 40, 40), (40, 60, 230))


def planted(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise with a patch whose colour alone tells the class: uint8 [N,S,S,3], labels [N], corners [N,2]."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(60, 200, (count, SIDE, SIDE, 3), dtype=np.uint8)
    labels = rng.integers(0, 2, count)
    corners = rng.integers(0, SIDE - PATCH, (count, 2))
    for picture, label, (top, left) in zip(pictures, labels, corners, strict=True):
        picture[top : top + PATCH, left : left + PATCH] = COLOURS[label]
    return pictures, labels, corners


class Pooled(nn.Module):
    """Convolutions and a mean over places, as most nets end."""

    def __init__(self, final: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        layers = [
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, 1, 1),
        ]
        self.layers, self.final = nn.Sequential(*layers, nn.ReLU()), final

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.final(self.layers(x))


class Head(nn.Module):
    """A head that is none of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 16), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


def mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3))


def highest(x: torch.Tensor) -> torch.Tensor:
    return x.amax((2, 3))


def made(folder: Path, net: nets.Classifier, plan: Any, examples: Any, classes: Any, near: bytes = b"") -> Predictor:
    bundle.export(
        folder,
        net=net,
        preprocess=plan,
        classes=classes,
        calibration=calibrate.Calibration(),
        reference={},
        card="# card\n",
        examples=examples,
        nearest=near,
    )
    return Predictor(folder)


KINDS: dict[str, tuple[Callable[[], nets.Classifier], str]] = {
    "mean": (lambda: nets.Classifier(Pooled(mean), nn.Linear(32, 2), {}), "gradient"),
    "highest": (lambda: nets.Classifier(Pooled(highest), nn.Linear(32, 2), {}), "gradient"),
    "hellinger": (lambda: nets.Classifier(Pooled(mean), nets.new_head("hellinger", 32, 2), {}), "gradient"),
    "mirrored": (lambda: nets.mirrored(nets.Classifier(Pooled(mean), nn.Linear(32, 2), {})), "gradient"),
    "other head": (lambda: nets.Classifier(Pooled(mean), Head(), {}), "covering"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_heat_is_on_the_patch_that_decides(kind: str, tmp_path: Path) -> None:
    make, how = KINDS[kind]
    torch.manual_seed(0)
    net = make()
    pictures, labels, _ = planted(192, 0)
    x, y = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1, torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(net.parameters(), 0.006)
    for step in range(60):
        optimizer.zero_grad()
        rows = slice(32 * (step % 6), 32 * (step % 6) + 32)
        nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    plan = Preprocess(size=SIDE, resize=SIDE)
    predictor = made(tmp_path / "b", net, plan, {"pictures": pictures[:32]}, ("red", "blue"))
    seen, truth, corners = planted(12, 1)
    shares, peaks = [], 0
    for picture, label, (top, left) in zip(seen, truth, corners, strict=True):
        found = predictor.explain(picture)
        assert found.label == predictor.classes[label]
        assert found.how == how
        assert found.heat is not None
        assert (found.heat.dtype, found.heat.shape) == (np.float32, (SIDE, SIDE))
        assert (found.heat.min(), found.heat.max()) >= (0, 0.5)
        around = np.zeros((SIDE, SIDE), bool)
        around[max(0, top - 5) : top + PATCH + 5, max(0, left - 5) : left + PATCH + 5] = True
        shares.append(found.heat[around].sum() / found.heat.sum())
        peaks += bool(around[np.unravel_index(found.heat.argmax(), found.heat.shape)])
    assert np.mean(shares) > 0.5, shares  # the patch and its rim are at most 17 % of the picture
    assert peaks >= 11


def test_the_closed_form_is_the_gradient() -> None:
    torch.manual_seed(0)
    x = torch.randn(24, requires_grad=True)
    weight = torch.randn(24)
    (nets.Hellinger()(x[None])[0] @ weight).backward()  # type: ignore[no-untyped-call]
    features, pull = explain._hellinger(x.detach().numpy())
    assert x.grad is not None
    np.testing.assert_allclose(pull(weight.numpy()), x.grad.numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(features, nets.Hellinger()(x[None])[0].detach().numpy(), rtol=1e-5)


@pytest.fixture
def letters(tmp_path: Path) -> Predictor:
    """A bag of words with pairs and chance for weights."""
    torch.manual_seed(0)
    plan = texts.learn([["good", "bad", "not", "goal", "bank", "naïve"]], pairs=64)
    net = nets.bag(entries=len(plan.words) + plan.pairs, classes=3)
    with torch.no_grad():
        net.body.weight.normal_()  # type: ignore[operator, union-attr]
        net.body.idf.uniform_(0.5, 2)  # type: ignore[operator, union-attr]
        net.head.bias.normal_()  # type: ignore[operator, union-attr]
    examples = texts.Vectoriser(plan)([["good", "bank"], ["not", "bad"]]).padded()
    return made(tmp_path / "letters", net, plan, examples, ("a", "b", "c"))


@pytest.mark.parametrize(
    "told",
    ["Not good. Not BAD, not good goal!", "good", "bank unheard bank bank", "A naïve bank, naïve goal", "ﬁne good"],
)
def test_words_add_up_to_the_logit(told: str, letters: Predictor) -> None:
    logits = letters.run(letters.prepare([told.encode()]))[0][0]
    for place, label in enumerate(letters.classes):
        found = letters.explain(told.encode(), label=label)
        assert found.how == "words"
        total = sum(word.weight for word in found.words) + found.bias
        assert total == pytest.approx(logits[place] - logits.mean(), abs=1e-4)
        assert sum(value for _, value in found.terms) + found.bias == pytest.approx(total, abs=1e-5)
        for word in found.words:
            assert found.text[word.start : word.end].lower() in letters.preprocess.words  # type: ignore[union-attr]


def test_pairs_are_terms(letters: Predictor) -> None:
    terms = dict(letters.explain(b"not good bank").terms)
    assert {"not good", "good bank", "not", "good", "bank"} == set(terms)


def test_a_sentence_model_is_asked_without_each_word(tmp_path: Path) -> None:
    from inflame.model.engine.sentences import Encoder

    torch.manual_seed(0)
    pieces = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "good", "bank", "##er", "bad")
    config = dict.fromkeys(("hidden_size", "intermediate_size"), 16) | {
        "vocab_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    }
    net = nets.Classifier(Encoder(config), nn.Linear(16, 2), {})
    plan = TextPreprocess(words=pieces, pairs=0, longest=32, pieces="small")
    count = texts.Vectoriser(plan)
    predictor = made(
        tmp_path / "b", net, plan, count([count.read("good banker"), count.read("bad")]).padded(), ("x", "y")
    )
    found = predictor.explain(b"Good banker, bad.")
    assert found.how == "leaving out"
    assert [found.text[word.start : word.end] for word in found.words][:2] == ["good", "banker"]
    assert any(abs(word.weight) > 1e-6 for word in found.words)


def test_the_nearest_is_the_item_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plan, net = Preprocess(size=24, resize=24), nets.small(size=24, channels=3, classes=2, widths=(8, 16)).eval()
    pictures = np.random.default_rng(0).integers(0, 255, (30, 24, 24, 3), dtype=np.uint8)
    with torch.no_grad():
        embedding = net.body(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1).numpy()
    near = nearest.pack(
        embedding=embedding,
        labels=["a", "b"] * 15,
        uris=[f"{number}.png" for number in range(30)],
        shown=[nearest.thumb(picture) for picture in pictures],
    )
    predictor = made(tmp_path / "b", net, plan, {"pictures": pictures}, ("a", "b"), near)
    for number in (0, 7, 29):
        found = predictor.explain(pictures[number], near=3).near
        assert found[0].uri == f"{number}.png"
        assert found[0].label == "ab"[number % 2]
        assert found[0].distance < 1e-3
        assert [one.distance for one in found] == sorted(one.distance for one in found)
        assert found[0].thumb.startswith(b"\x89PNG")
    assert bundle.amend(tmp_path / "b", {"card.md": b"# other\n"})
    assert Predictor(tmp_path / "b").explain(pictures[0]).near
    (tmp_path / "b" / "nearest.npz").write_bytes(near[:-1] + b"x")
    with pytest.raises(BundleError, match="nearest"):
        Predictor(tmp_path / "b")


def test_every_class_is_among_the_chosen() -> None:
    labels = np.array([0] * 500 + [1] * 3 + [2] * 60)
    rows = nearest.choose(labels, most=40)
    assert np.bincount(labels[rows]).tolist() == [19, 3, 18]
    assert len(set(rows.tolist())) == 40
    assert nearest.choose(labels[:5]).tolist() == [0, 1, 2, 3, 4]


def test_a_label_that_is_none(letters: Predictor) -> None:
    with pytest.raises(DataError, match="no class"):
        letters.explain(b"good", label="d")


def test_neither_answers_nor_explanations_need_torch(letters: Predictor) -> None:
    code = (
        "import sys\nfrom inflame.model.engine.bundle import Predictor\np = Predictor(sys.argv[1])\n"
        "p.predict([b'good bank'])\nassert 'inflame.model.engine.explain' not in sys.modules\n"
        "p.explain(b'good bank')\nassert not {'torch', 'onnx', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(letters.folder)], check=True, timeout=60)
