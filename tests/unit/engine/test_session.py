"""A session: what it opens, refuses, says, and how it shares out the time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from inflame import config
from inflame.artifact import loader
from inflame.config import Settings
from inflame.errors import DataError, NetworkError, SettingError
from inflame.model.engine import nets, pace, session
from inflame.model.engine.company import Company
from inflame.model.engine.device import One
from inflame.model.engine.hooks import SaveLast
from inflame.model.engine.learner import Learner
from inflame.model.engine.processes import Many
from inflame.records import Preprocess


def settings(tmp_path: Path, data: str | Path, *words: str) -> Settings:
    from inflame import plugins

    folder = plugins.model_folder("auto")
    return config.load(folder, [f"io.training_input={data}", f"output={tmp_path / 'run'}", *words])


def test_a_session_opens_data_and_run_and_says_both(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(session.STARTED, str(time.time()))
    given = settings(tmp_path, photos, "in=60s")
    with session.begin(given) as s:
        assert len(s.dataset.classes) == 3
        assert s.run.path == tmp_path / "run"
        assert s.budget is not None
        assert 0 < s.left() <= 60 - s.reserve
    said = (tmp_path / "run/log.txt").read_text()
    assert "run      " in said
    assert f"{len(s.dataset)} items, 3 classes" in said
    assert (tmp_path / "run/items.parquet").is_file()


def test_one_class_and_nothing_to_train_on_are_refused(tmp_path: Path, photos: Path) -> None:
    table = "path,label,split\n" + "".join(
        f"{path.relative_to(tmp_path)},{path.parent.name},test\n" for path in sorted(photos.rglob("*.jpg"))
    )
    (tmp_path / "all.csv").write_text(table)
    with (
        pytest.raises(DataError, match="no items to train on"),
        session.begin(settings(tmp_path, tmp_path / "all.csv")),
    ):
        pass
    first, *others = sorted(path for path in photos.iterdir() if path.is_dir())
    for other in others:
        shutil.rmtree(other)
    with pytest.raises(DataError, match=f"one class, {first.name}"), session.begin(settings(tmp_path, photos)):
        pass


def test_without_a_network_the_fallback_is_taken_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFLAME_MIRROR", raising=False)
    with session.begin(settings(tmp_path, "mnist", "limit=100"), fallback="digits") as s:
        assert s.dataset.name == "digits"
    assert "taking digits instead" in (tmp_path / "run/log.txt").read_text()
    with (
        pytest.raises(NetworkError),
        session.begin(settings(tmp_path, "mnist", "limit=100", f"output={tmp_path / 'other'}")),
    ):
        pass


def test_a_model_that_begins_a_session_takes_the_settings_of_its_data(tmp_path: Path) -> None:
    """A folder of one's own, whose only file says no word of them."""
    (tmp_path / "train.py").write_text("from inflame.model.engine import session\n")
    (tmp_path / "model-config.toml").write_text('[io]\ntraining_input = "digits"\n')
    given = config.load(tmp_path, ["io.training_input=mnist", "limit=5", "skip_bad=true", "split_seed=1"])
    assert (given.io.training_input, given.limit, given.skip_bad, given.split_seed) == ("mnist", 5, True, 1)


def test_the_clock_began_when_the_command_did(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(session.STARTED, str(time.time() - 20))
    with session.begin(settings(tmp_path, photos, "in=60s")) as s:
        assert s.budget is not None
        assert 20 < s.budget.left() <= 40


def test_with_epochs_there_is_no_clock(tmp_path: Path, photos: Path) -> None:
    with session.begin(settings(tmp_path, photos), epochs=3) as s:
        assert s.budget is None
        assert s.left() == float("inf")


def test_a_batch_size_that_was_found_is_kept(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Preprocess(size=16, resize=16)

    def given(s: session.Session) -> loader.Batches:
        batches = loader.Batches(loader.load(s.dataset, small)["train"], small, batch_size=4, shuffle=True)
        net = nets.linear(size=16, channels=3, classes=3)
        return s.sized(net, batches, nn.CrossEntropyLoss(), One("cpu", threads=1))

    with suppress(KeyboardInterrupt), session.begin(settings(tmp_path, photos)) as s:
        found = given(s).batch_size
        assert found in (4, 8)
        assert s.run.read_status()["kept"]["batch size"] == found
        raise KeyboardInterrupt
    monkeypatch.setattr(pace, "batch_size", lambda *_, **__: pytest.fail("tried again"))
    with session.begin(settings(tmp_path, photos)) as s:
        assert s.run.resumed
        assert given(s).batch_size == found


def test_another_number_of_devices_computes_in_the_precision_in_which_the_run_was_begun(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Preprocess(size=16, resize=16)
    monkeypatch.setattr(pace, "choose", lambda *_, **__: pytest.fail("tried again"))
    several = object.__new__(Many)  # one of several processes, without the processes
    several.rank, several.world, several.place, several._talk = 0, 1, torch.device("cpu"), None
    for company, status in (
        (Company(None), {"kept": {"pace": {"precision": "bf16", "channels_last": True, "each": 0.5}}}),
        (Company(several), {"pace": {"precision": "bf16", "channels_last": True, "compiled": False, "threads": 1}}),
    ):
        with session.begin(settings(tmp_path, photos, "fresh=true")) as s:
            batches = loader.Batches(loader.load(s.dataset, small)["train"], small, batch_size=4)
            s.run.status(**status)
            s.company = company
            found = s.pace(nets.linear(size=16, channels=3, classes=3), batches, nn.CrossEntropyLoss())
            assert (found.precision, found.channels_last) == ("bf16", True)


def test_no_checkpoint_knows_of_an_epoch_whose_numbers_a_kill_would_take_away(
    tmp_path: Path, photos: Path, make_learner: Callable[..., Learner]
) -> None:
    with session.begin(settings(tmp_path, photos)) as s:
        assert s.run.live is not None
        s.run.live.flushed = float("inf")  # as if the last numbers had been written just now
        last = next(hook for hook in s.hooks() if isinstance(hook, SaveLast))
        s.run.metric(epoch=1)
        assert not (tmp_path / "run/metrics.jsonl").read_text()
        last.save(make_learner())
        assert (tmp_path / "run/metrics.jsonl").read_text() == '{"epoch":1}\n'


def test_a_net_of_other_classes_is_refused() -> None:
    session.require_classes(nets.linear(size=16, channels=3, classes=3), 3)
    session.require_classes(nn.Flatten(), 3)  # nobody knows
    with pytest.raises(SettingError, match="answers with 3 classes, the data has 10"):
        session.require_classes(nets.linear(size=16, channels=3, classes=3), 10)


def test_a_seed_leaves_the_split_as_it_is_and_a_split_seed_makes_another(tmp_path: Path, photos: Path) -> None:
    """So that seeds of one recipe are judged on the same pictures."""
    splits, recipes = [], set()
    for number, words in enumerate(((), ("seed=5",), ("split_seed=5",))):
        with session.begin(settings(tmp_path, photos, f"output={tmp_path / str(number)}", *words)) as s:
            splits.append(s.dataset.items.select(["uri", "split"]).to_pylist())
            recipes.add(s.run.read_status()["recipe"])
    assert splits[0] == splits[1] != splits[2]
    assert len(recipes) == 1


def test_time_is_kept_for_the_answers_at_the_end(tmp_path: Path, photos: Path) -> None:
    """As long as the bundle takes for all that is held out, but no more than a share of the budget."""
    plan = Preprocess(size=16, resize=16)
    net = nets.small(size=16, channels=3, classes=3)
    with session.begin(settings(tmp_path, photos, "in=100s")) as s:
        pictures = loader.load(s.dataset, plan)
        before = s.reserve
        s.hold_back(net, plan, pictures)
        once = s.reserve - before
        s.reserve = before
        s.hold_back(net, plan, pictures, looks=3)
        assert 0 < once < 1
        assert s.reserve - before == pytest.approx(3 * once)
        s.hold_back(net, plan, pictures, looks=10**9)
        assert s.reserve == s.most() == 15
