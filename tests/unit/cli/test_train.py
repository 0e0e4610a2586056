"""train says what is to be run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inflame.cli import train
from inflame.cli.main import main
from inflame.infra import local


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What `inflame train` would become, filled in by `main`; models stand for themselves without torch."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(local, "become", lambda request: found.update(request) or 0)
    monkeypatch.setattr(train.plugins, "model_folder", lambda name: _folder(tmp_path, name))
    return found


def _folder(root: Path, name: str) -> Path:
    path = Path(name) if (Path(name) / "app.py").exists() else root / "models" / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "app.py").touch()
    return path


def _words(job: dict[str, Any]) -> tuple[str, list[str]]:
    return Path(job["command"][1]).parent.name, job["command"][3:]


# --- train ---------------------------------------------------------------------------------------


def test_a_model_by_name(job: dict[str, Any]) -> None:
    main(["train", "mnist", "--in", "60s", "seed=1"])
    assert _words(job) == ("mnist", ["in=60s", "seed=1"])


def test_a_model_by_folder(job: dict[str, Any], tmp_path: Path) -> None:
    folder = _folder(tmp_path, "my_birds")
    main(["train", str(folder), "--json", "--debug"])
    assert _words(job) == ("my_birds", ["--json", "--debug"])
    assert job["command"][1] == str(folder / "app.py")


def test_data_goes_to_auto_by_its_whole_path(
    job: dict[str, Any], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    main(["train", "photos/", "hyperparam.num_epochs=2"])
    assert _words(job) == ("auto", [f"io.training_input={photos}", "hyperparam.num_epochs=2"])


@pytest.mark.parametrize("name", ["data.csv", 'a b\'c="d".zip', "größe=1.zip"])
def test_a_file_with_any_name(job: dict[str, Any], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    main(["train", name])
    assert _words(job) == ("auto", [f"io.training_input={tmp_path / name}"])


def test_a_named_set_goes_to_auto(job: dict[str, Any]) -> None:
    main(["train", "clothing", "--epochs", "3"])
    assert _words(job) == ("auto", ["io.training_input=clothing", "hyperparam.num_epochs=3"])


def test_a_models_name_wins_over_data(job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    main(["train", "mnist"])
    assert _words(job) == ("mnist", [])
    main(["train", "./mnist"])
    assert _words(job) == ("auto", [f"io.training_input={tmp_path / 'mnist'}"])


def test_weights_are_found_before_anything_starts(job: dict[str, Any], tmp_path: Path) -> None:
    assert main(["train", "mnist", "--weights", str(tmp_path / "w.safetensors")]) == 2
    assert not job
    (tmp_path / "w.safetensors").touch()
    main(["train", "mnist", "--weights", str(tmp_path / "w.safetensors")])
    assert _words(job) == ("mnist", [f"weights={tmp_path / 'w.safetensors'}"])


def test_help_about_a_model_is_the_models(job: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "mnist", "--help"])
    assert _words(job) == ("mnist", ["--help"])
    assert main(["train", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: inflame train")


def test_texts_go_to_auto_by_their_own_word(job: dict[str, Any]) -> None:
    main(["train", "auto", "text=letters/", "--in", "20s"])
    assert _words(job) == ("auto", ["in=20s", "text=letters/"])
    main(["train", "--text", "letters.csv"])  # nothing else is said: the model that takes any data
    assert _words(job) == ("auto", ["text=letters.csv"])


def test_explain_becomes_a_setting(job: dict[str, Any]) -> None:
    main(["train", "clothing", "--explain"])
    assert _words(job) == ("auto", ["io.training_input=clothing", "explain=true"])


def test_options_may_stand_anywhere(job: dict[str, Any]) -> None:
    main(["train", "--in", "10s", "seed=1", "mnist", "limit=5"])
    assert _words(job) == ("mnist", ["in=10s", "seed=1", "limit=5"])


def test_settings_may_have_dashes(job: dict[str, Any]) -> None:
    main(["train", "--seed", "1", "--hyperparam.learning-rate=0.1", "--fresh", "mnist", "--in=5s", "--lr", "0.2"])
    assert _words(job) == ("mnist", ["in=5s", "seed=1", "hyperparam.learning_rate=0.1", "fresh=true", "lr=0.2"])


def test_without_torch_nothing_starts(
    job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["train", "mnist"]) == 2
    assert "pip install 'inflame[train]'" in capsys.readouterr().err
    assert not job


# --- predict -------------------------------------------------------------------------------------
