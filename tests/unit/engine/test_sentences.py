"""A local sentence model as a frozen body: read as its folder says, and taken where it helps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from inflame.artifact.wordpiece import END, START, UNKNOWN
from inflame.errors import DataError
from inflame.model.engine import sentences
from inflame.model.engine.bundle import Predictor

SIDES = {side: [f"{side}{a}{b}" for a in "bcdfghjklm" for b in "npqrstvwxz"] for side in ("hot", "ice")}
CONFIG = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that knows which of 200 words are hot and which are icy, and nothing else."""
    place = tmp_path / "thermo"
    place.mkdir()
    words = ["[PAD]", UNKNOWN, START, END, *SIDES["hot"], *SIDES["ice"]]
    (place / "vocab.txt").write_text("\n".join(words) + "\n")
    (place / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": len(words)}))
    torch.manual_seed(0)
    body = sentences.Encoder({**CONFIG, "vocab_size": len(words)})
    with torch.no_grad():
        vectors = body.embeddings["word_embeddings"].weight  # type: ignore[union-attr]
        vectors[4:104, 0] += 4  # type: ignore[index]
        vectors[104:, 0] -= 4  # type: ignore[index]
    save_file({f"bert.{name}": value.clone() for name, value in body.state_dict().items()}, place / "model.safetensors")
    return place


def test_padding_changes_nothing(folder: Path) -> None:
    model = sentences.load(folder)
    told = ["hotbn", "icebn icebp icebq hotbn", ""]
    together = sentences.read(model, told).padded()
    for row, text in enumerate(told):
        alone = sentences.read(model, [text]).padded()
        with torch.inference_mode():
            one, all_ = (
                model.body(*(torch.from_numpy(value) for value in inputs.values())) for inputs in (alone, together)
            )
        assert torch.allclose(one[0], all_[row], atol=1e-6)
        assert float(one.norm()) == pytest.approx(1)


def test_a_layer_is_the_one_of_torch() -> None:
    torch.manual_seed(0)
    mine = sentences._Layer(16, 24, 4, 1e-5).eval()
    theirs = nn.TransformerEncoderLayer(16, 4, 24, dropout=0, activation="gelu", batch_first=True).eval()
    looks, state = mine.attention["self"], theirs.state_dict()
    for part in ("weight", "bias"):
        state[f"self_attn.in_proj_{part}"] = torch.cat([getattr(looks[n], part) for n in ("query", "key", "value")])  # type: ignore[index]
        for ours, name in (
            (mine.attention["output"]["dense"], "self_attn.out_proj"),  # type: ignore[index]
            (mine.attention["output"]["LayerNorm"], "norm1"),  # type: ignore[index]
            (mine.intermediate["dense"], "linear1"),
            (mine.output["dense"], "linear2"),
            (mine.output["LayerNorm"], "norm2"),
        ):
            state[f"{name}.{part}"] = getattr(ours, part)
    theirs.load_state_dict(state)
    x = torch.randn(3, 7, 16)
    gone = torch.zeros(3, 7, dtype=torch.bool)
    gone[1, 4:] = True
    hidden = gone[:, None, None] * torch.finfo(torch.float32).min
    with torch.inference_mode():
        expected = theirs(x, src_key_padding_mask=gone)
        assert torch.allclose(mine(x, hidden)[~gone], expected[~gone], atol=1e-5)


def test_features_are_kept(folder: Path, home: Path) -> None:
    model = sentences.load(folder)
    counts = sentences.read(model, ["hotbn", "icebn icebp"])
    first = sentences.features(model, counts, hashes=["a", "b"])
    model.body.zero_grad()
    with torch.no_grad():
        model.body.embeddings["word_embeddings"].weight.zero_()  # type: ignore[union-attr, operator]
    assert np.array_equal(sentences.features(model, counts, hashes=["a", "b"]), first)
    assert not np.array_equal(sentences.features(model, counts, hashes=["a", "c"]), first)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.json", None, "config.json can't be read"),
        ("config.json", '{"model_type": "t5"}', "of kind t5"),
        ("model.safetensors", "no", "weights can't be read"),
        ("vocab.txt", "a\nb\n", "vocabulary"),
    ],
)
def test_what_cannot_be_used_is_said(folder: Path, file: str, content: str | None, reason: str) -> None:
    (folder / file).unlink() if content is None else (folder / file).write_text(content)
    with pytest.raises(DataError, match=reason):
        sentences.load(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    with pytest.raises(DataError, match="don't fit"):
        sentences.load(folder)


def test_a_vocabulary_may_be_in_tokenizer_json(folder: Path) -> None:
    words = (folder / "vocab.txt").read_text().split()
    expected = sentences.load(folder).preprocess
    (folder / "vocab.txt").unlink()
    vocab = {word: number for number, word in enumerate(words)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": dict(sorted(vocab.items()))}}))
    assert sentences.load(folder).preprocess == expected


def test_it_is_taken_where_it_knows_more_than_the_words(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for side, words in SIDES.items():
        told = rng.permutation(words).reshape(50, 2)  # no word is in two texts
        rows += [json.dumps({"text": " ".join(pair), "label": side}) for pair in told]
    (tmp_path / "days.jsonl").write_text("\n".join(rows) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "inflame", "train", str(tmp_path / "days.jsonl"), "--weights", str(folder), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    status = json.loads((Path(found["run"]) / "status.json").read_text())
    assert [(rung["name"], rung["accepted"]) for rung in status["ladder"]][-1] == ("sentences", True)
    assert found["test"]["accuracy"] > 0.9
    answers = Predictor(Path(found["run"]) / "bundle").predict([b"hotbn hotmz", b"icebn", b"\xe4\xbb\x8a icebn icemz"])
    assert [answer.label for answer in answers] == ["hot", "ice", "ice"]
