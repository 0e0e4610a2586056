"""One call each: torch, Arrow, pandas, Hugging Face, and the same items in all of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inflame import artifact
from inflame.records import Dataset


@pytest.fixture
def letters(tmp_path: Path) -> Dataset:
    for number in range(12):
        path = tmp_path / "letters" / f"kind{number % 2}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"dear reader number{number} words words")
    return artifact.open(tmp_path / "letters")


def test_photos_in_all_forms(photos: Path) -> None:
    found = artifact.open(photos)
    x, y = artifact.to_torch(found, 32)
    assert (x.shape, x.dtype, y.dtype) == ((36, 3, 32, 32), torch.uint8, torch.int64)
    assert [found.classes[n] for n in y.tolist()] == found.items["label"].to_pylist()
    table = artifact.to_arrow(found)
    uri = table["uri"][0].as_py()
    assert table["image"][0].as_py() == {"bytes": (photos / uri).read_bytes(), "path": uri}
    frame = artifact.to_pandas(found)
    assert frame["label"].tolist() == found.items["label"].to_pylist()
    hub = artifact.to_huggingface(found)
    assert isinstance(hub[0]["image"], Image.Image)
    assert hub.features["label"].names == list(found.classes)
    assert hub["label"] == y.tolist()


def test_digits_keep_their_size(tmp_path: Path) -> None:
    found = artifact.getdata("digits")
    x, y = artifact.to_torch(found)
    assert x.shape[1] == 1
    assert len(x) == len(y) == 1797
    picture = Image.open(io.BytesIO(artifact.to_arrow(found)["image"][5].as_py()["bytes"]))
    assert np.array_equal(np.asarray(picture), x[5, 0].numpy())


def test_texts_in_all_forms(letters: Dataset) -> None:
    x, y = artifact.to_torch(letters)
    assert x.shape[0] == 12
    assert torch.sparse.sum(x, 1).to_dense().tolist() == [5.0] * 12
    assert len(y) == 12
    assert artifact.to_arrow(letters)["text"][0].as_py().startswith("dear reader")
    assert artifact.to_pandas(letters)["text"].str.startswith("dear").all()
    assert artifact.to_huggingface(letters)[0]["text"].startswith("dear")


def test_public_names() -> None:
    for name in artifact.__all__:
        assert callable(getattr(artifact, name))
