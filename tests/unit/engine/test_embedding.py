"""Pretrained bodies as plain functions: made once with torch, found again without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from inflame.errors import DataError
from inflame.model.engine import embedding


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    import timm

    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=0)
    path = tmp_path / "resnet10t.mine.safetensors"
    save_file(net.state_dict(), path)
    return path


def test_a_file_becomes_a_function_and_is_known_the_next_time(weights: Path) -> None:
    (embed,) = embedding.at_hand(str(weights), size=64)
    squares = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    vectors = embed(squares)
    assert vectors.shape == (3, 512)
    assert vectors.dtype == np.float32
    assert np.allclose(embed(squares[1:2])[0], vectors[1], atol=1e-4)
    (again,) = embedding.at_hand(str(weights), size=64)
    assert (again.name, again.size) == (embed.name, 64)
    code = (
        "import sys; from inflame.model.engine import embedding\n"
        f"(embed,) = embedding.at_hand({str(weights)!r}, size=64); import numpy as np\n"
        "embed(np.zeros((1, 64, 64, 3), np.uint8)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_none_without_weights(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFLAME_MIRROR", raising=False)
    assert embedding.at_hand() == []


def test_other_files_are_no_bodies(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFLAME_MIRROR", raising=False)
    (home / "weights").mkdir()
    (home / "weights" / "something.safetensors").write_bytes(b"no header")
    assert embedding.at_hand() == []
    assert embedding.at_hand() == []  # known by then
    with pytest.raises(DataError):
        embedding.at_hand(str(home / "weights" / "something.safetensors"))


def test_changed_weights_are_another_body(weights: Path) -> None:
    (first,) = embedding.at_hand(str(weights), size=64)
    import timm

    torch.manual_seed(1)
    save_file(timm.create_model("resnet10t", num_classes=0).state_dict(), weights)
    (second,) = embedding.at_hand(str(weights), size=64)
    assert first.name != second.name
