"""Which pretrained bodies are found, what a wrong file is told, and that a frozen body answers as torch does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from inflame.errors import DataError
from inflame.model.engine import backbones, nets

NET = "test_resnet"  # timm's smallest


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("INFLAME_HOME", str(tmp_path / "home"))
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("INFLAME_MIRROR", str(tmp_path / "mirror"))
    return tmp_path


def weights(place: Path, metadata: dict[str, str] | None = None) -> Path:
    torch.manual_seed(0)
    place.parent.mkdir(parents=True, exist_ok=True)
    body: Any = nets.from_timm(NET, classes=2).body
    state = {**body.state_dict(), "fc.weight": torch.ones(2, body.num_features), "fc.bias": torch.zeros(2)}
    save_file(state, place, metadata=metadata)
    return place


def test_none_at_hand_is_said_in_one_line(home: Path) -> None:
    said: list[str] = []
    assert backbones.at_hand("", said.append) == []
    assert len(said) == 1
    assert "from scratch" in said[0]


def test_files_of_mirror_and_home_are_found_and_others_passed_over(home: Path) -> None:
    weights(home / "mirror/weights" / f"{NET}.one.safetensors")
    weights(home / "home/weights" / f"{NET}.two.safetensors")
    (home / "home/weights/notes.safetensors").write_text("no weights")
    assert [found.name for found in backbones.at_hand("", print)] == [f"{NET}.one", f"{NET}.two"]


def test_the_given_file_is_the_only_one_and_loads(home: Path) -> None:
    weights(home / "mirror/weights" / f"{NET}.one.safetensors")
    mine = weights(home / "mine.safetensors", {"timm": NET, "mean": "0.1, 0.2, 0.3", "std": "1,1,1"})
    (found,) = backbones.at_hand(str(mine), print)
    assert (found.net, found.mean, found.std) == (NET, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    net = found.load(3)
    expected = nets.from_timm(NET, classes=3)
    torch.manual_seed(0)
    expected.body.load_state_dict(nets.from_timm(NET, classes=2).body.state_dict())
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(net.eval().body(x), expected.eval().body(x))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("mine.safetensors", None, "which timm model"),
        (f"{NET}.safetensors", b"junk", "not a safetensors file"),
        (f"{NET}.safetensors", (10**12).to_bytes(8, "little") + b"{}", "not a safetensors file"),
    ],
)
def test_a_file_of_no_use_is_refused_with_the_reason(home: Path, name: str, content: bytes | None, said: str) -> None:
    path = home / name
    if content is None:
        weights(path)
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        backbones.at_hand(str(path), print)


def test_a_missing_file_is_refused(home: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        backbones.at_hand(str(home / "nothing.safetensors"), print)


def test_weights_of_another_net_are_refused_by_their_keys(home: Path) -> None:
    path = weights(home / "resnet18.wrong.safetensors")
    (found,) = backbones.at_hand(str(path), print)
    with pytest.raises(DataError, match="doesn't fit"):
        found.load(2)


def test_a_file_cut_short_is_told(home: Path) -> None:
    path = weights(home / f"{NET}.cut.safetensors")
    path.write_bytes(path.read_bytes()[:-1000])
    (found,) = backbones.at_hand(str(path), print)
    with pytest.raises(DataError, match="can't be read"):
        found.load(2)


def test_its_own_head_needs_a_list_of_its_classes(home: Path) -> None:
    path = weights(home / f"{NET}.two.safetensors")
    (found,) = backbones.at_hand(str(path), print)
    assert found.own_head() is None
    (home / "two_labels.txt").write_text("cat\ndog\n")
    (found,) = backbones.at_hand(str(path), print)
    assert found.labels == ("cat", "dog")
    head = found.own_head()
    assert head is not None
    assert head[0].shape[0] == 2


def test_the_key_follows_the_weights(home: Path) -> None:
    path = weights(home / f"{NET}.a.safetensors")
    (found,) = backbones.at_hand(str(path), print)
    before = found.key()
    assert found.key() == before
    state = {"x": torch.zeros(1)}
    save_file(state, path)
    assert found.key() != before


def test_frozen_answers_as_torch_does(home: Path) -> None:
    path = weights(home / f"{NET}.a.safetensors")
    (found,) = backbones.at_hand(str(path), print)
    net = found.load(2).eval()
    plan = found.preprocess(32)
    frozen = backbones.Frozen(net.body, plan, key=found.key(), device=torch.device("cpu"))
    pixels = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)
    from inflame.artifact.loader import normalise

    with torch.inference_mode():
        expected = net.body(normalise(torch.from_numpy(pixels), plan)).numpy()
    assert np.allclose(frozen(pixels), expected, atol=1e-4)
    assert np.allclose(
        frozen(pixels[:, :, ::-1]),
        backbones.Frozen(net.body, plan, key=found.key(), device=torch.device("cpu"))(pixels[:, :, ::-1].copy()),
    )
