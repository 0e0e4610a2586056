"""A pretrained net's own labels for the user's classes: all of them and each once, or not at all; and the run folder
of another machine."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from inflame import store
from inflame.artifact import loader
from inflame.artifact.loader import Pictures
from inflame.errors import DataError
from inflame.model.auto import naming
from inflame.model.engine import afar, backbones, nets

NET = "test_resnet"  # timm's smallest
LABELS = ("tench, Tinca tinca", "Danaus plexippus (Monarch)", "viceroy", "crane", "crane (machine)")


@pytest.fixture
def backbone(tmp_path: Path) -> backbones.Backbone:
    body = nets.from_timm(NET, classes=2).body
    own = {"fc.weight": torch.randn(len(LABELS), int(body.num_features)), "fc.bias": torch.arange(float(len(LABELS)))}
    save_file({**body.state_dict(), **own}, tmp_path / f"{NET}.tag.safetensors")
    (tmp_path / "tag_labels.txt").write_text("\n".join(LABELS))
    (found,) = backbones.at_hand(str(tmp_path / f"{NET}.tag.safetensors"), print)
    return found


def test_its_rows_answer_for_the_classes_in_their_order(backbone: backbones.Backbone) -> None:
    layer = naming.named(backbone, ["monarch", "Tinca_tinca"])
    own = backbone.own_head()
    assert layer is not None
    assert own is not None
    assert layer.bias.tolist() == [1.0, 0.0]
    assert np.array_equal(layer.weight.detach().numpy(), own[0][[1, 0]])


@pytest.mark.parametrize("classes", [["monarch", "owl"], ["crane", "viceroy"], ["mona", "viceroy"]])
def test_one_that_is_missing_or_ambiguous_is_none(backbone: backbones.Backbone, classes: list[str]) -> None:
    assert naming.named(backbone, classes) is None  # two are called crane


def test_the_run_folder_of_another_machine_is_brought_from_its_bucket() -> None:
    place = f"memory://afar-{uuid.uuid4().hex}/run"
    wanted = {"items.parquet": b"items", "dataset.json": b"{}", "last/newest.pt": b"no checkpoint by this name"}
    for name, content in {**wanted, f"last-net/{afar.CHECKPOINTS[0]}": b"weights", "best/x": b"x"}.items():
        store.write(store.join(place, name), content)
    folder = afar.bring("/run/of/the/first", place)
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert there == {"items.parquet", "dataset.json", f"last-net/{afar.CHECKPOINTS[0]}"}
    for output in ("", "/somewhere/local"):
        with pytest.raises(DataError, match="is on the first machine"):
            afar.bring("/run/of/the/first", output)


def test_a_share_of_the_pictures_and_rows_across_parts() -> None:
    parts = [
        Pictures(
            pixels=torch.arange(start, end).view(-1, 1, 1, 1).to(torch.uint8),
            labels=torch.arange(start, end),
            uris=tuple(map(str, range(start, end))),
        )
        for start, end in ((0, 10), (10, 13))
    ]
    found = loader.picked(parts, np.array([1, 9, 10, 12]))
    assert found.labels.tolist() == [1, 9, 10, 12]
    assert found.uris == ("1", "9", "10", "12")
    some = loader.some(parts[0], 0.31, seed=4)
    assert len(some) == 3
    assert [int(uri) for uri in some.uris] == some.labels.tolist() == some.pixels.flatten().tolist()
    assert torch.equal(some.labels, loader.some(parts[0], 0.31, seed=4).labels)
    assert len(loader.some(parts[0], 0.001, seed=4)) == 1
    assert loader.some(parts[0], 1.0, seed=4) is parts[0]
