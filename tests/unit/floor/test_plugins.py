import subprocess
import sys
from pathlib import Path

import pytest

from inflame import plugins
from inflame.errors import DataError, MissingExtra, UserError
from inflame.plugins import SEAMS, Plugin


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package, installed as pip would, that brings a source and a model of its own."""
    site = tmp_path / "site"
    (site / "stranger" / "birds").mkdir(parents=True)
    (site / "stranger" / "__init__.py").write_text("def fetch(root): return 'fetched'\n")
    (site / "stranger" / "birds" / "__init__.py").write_text("raise RuntimeError('a model is found, not imported')")
    (site / "stranger" / "birds" / "app.py").write_text("")
    info = site / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[inflame.source]\npond = stranger:fetch\nbad = stranger:nothing\ngone = stranger.gone:x\n"
        "[inflame.model]\nbirds = stranger.birds\nwrong = json.nowhere\nlost = nowhere.at.all\n"
    )
    monkeypatch.syspath_prepend(str(site))
    return site


def test_a_stranger_comes_through_the_same_door(stranger: Path) -> None:
    assert {"pond", "mnist"} <= set(plugins.names("source"))
    assert plugins.load("source", "pond")(Path()) == "fetched"
    assert plugins.model_folder("birds") == stranger / "stranger" / "birds"


def test_a_stranger_that_is_broken_is_named(stranger: Path) -> None:
    with pytest.raises(UserError, match="no 'nothing'"):
        plugins.load("source", "bad")
    with pytest.raises(MissingExtra, match=r"stranger\.gone"):
        plugins.load("source", "gone")
    with pytest.raises(UserError, match="not a package"):
        plugins.model_folder("wrong")
    with pytest.raises(UserError, match="not a package"):
        plugins.model_folder("lost")


@pytest.mark.parametrize("seam", SEAMS)
def test_an_unknown_name_is_refused_with_what_there_is(seam: str) -> None:
    with pytest.raises(UserError, match="There is no") as caught:
        plugins.load(seam, "nothing-like-it")
    assert all(name in caught.value.remedy for name in SEAMS[seam])


def test_a_misspelt_name_gets_a_guess() -> None:
    with pytest.raises(UserError, match='Did you mean "fashion-mnist"'):
        plugins.load("source", "fashion_mnist")


def test_what_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SEAMS["tracker"], "wandb", Plugin(target="wandb_is_not_here:Run", extra="wandb"))
    with pytest.raises(MissingExtra, match="The tracker wandb needs the package wandb_is_not_here") as caught:
        plugins.load("tracker", "wandb")
    assert caught.value.remedy == "pip install 'inflame[wandb]'"


def test_our_own_mistake_is_not_a_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError):
        plugins.need("inflame.nowhere", "train")


def test_a_model_is_a_folder_with_an_app(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match=r"no app\.py"):
        plugins.model_folder(tmp_path / "mine")
    (tmp_path / "mine" / "app.py").touch()
    assert plugins.model_folder(tmp_path / "mine") == tmp_path / "mine"
    assert plugins.model_folder(tmp_path / "mine" / "app.py") == tmp_path / "mine"


def test_a_name_wins_over_a_folder_and_a_path_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "app.py").touch()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "app.py").touch()
    monkeypatch.setattr(plugins, "_package_folder", lambda name, plugin: tmp_path / "theirs")
    monkeypatch.setitem(SEAMS["model"], "here", Plugin(target="somewhere"))
    monkeypatch.chdir(tmp_path)
    assert plugins.model_folder("here") == tmp_path / "theirs"
    assert plugins.model_folder("./here") == tmp_path / "here"


def test_an_unknown_model_gets_a_guess() -> None:
    with pytest.raises(UserError, match='Did you mean "mnist"'):
        plugins.model_folder("mnits")


def test_asking_imports_nothing_heavy() -> None:
    code = (
        "import sys; from inflame import plugins\n"
        "plugins.names('source'); plugins.names('model')\n"
        "print([name for name in ('numpy', 'torch', 'pyarrow', 'fsspec') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
