from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from inflame import store
from inflame.cli.main import main
from inflame.errors import BundleError, StorageError, UserError
from inflame.factory import registry
from inflame.factory.contest import contest
from inflame.factory.registry import NotBetter
from inflame.runs import Run, lock

Made = Callable[..., Path]
Spoil = Callable[[Sequence[int], Sequence[int]], list[int]]
Up = Callable[..., Run]


@pytest.fixture
def up(made: Made, truth: list[int], spoilt: Spoil) -> Up:
    """Makes a run with a bundle that got so many wrong."""

    def make(name: str, wrong: int = 10, **given: object) -> Run:
        folder = made(name, truth, spoilt(truth, range(wrong)), **given)
        (folder / "bundle").mkdir()
        content = f"weights of {name}" * 1000
        (folder / "bundle" / "model.onnx").write_text(content)
        version = hashlib.sha256(content.encode()).hexdigest()
        (folder / "bundle" / "bundle.json").write_text(json.dumps({"version": version}))
        return Run(path=folder)

    return make


def serving(name: str = "zoo") -> str:
    found = registry.champion(name)
    assert found is not None
    assert found.parent.resolve() == (registry.folder_of(name) / "champion").resolve()
    return (found / "model.onnx").read_text().split("weights of ")[1]


def test_the_first_then_only_what_is_better(up: Up) -> None:
    first = registry.promote(up("first", 60), "zoo")
    assert (first.action, first.version, first.why) == ("promote", 1, "the first of its name")
    second = registry.promote(up("second", 20), "zoo")
    assert second.why.startswith("second is better: +13.3 points")
    assert second.evidence["verdict"] == "better"
    assert second.evidence["champion"] == "first"
    assert second.who.endswith(f"@{os.uname().nodename}")
    with pytest.raises(NotBetter, match="third doesn't become the champion of zoo: cannot tell: about") as error:
        registry.promote(up("third", 18), "zoo")
    assert "run 3 that was tried on these items" in error.value.where
    assert error.value.code == 1
    assert serving() == "second"
    assert [entry.action for entry in registry.log("zoo")] == ["promote", "promote", "refuse"]
    assert registry.names() == ["zoo"]


def test_a_contest_decides_where_there_is_one(up: Up) -> None:
    few, many = np.arange(200) >= 80, np.arange(200) >= 10
    registry.promote(up("first", 20), "zoo")
    entry = registry.promote(up("second", 19), "zoo", found=contest({"recent": (few, many)}))
    assert (entry.action, entry.why) == ("promote", "better: +35.0 points (28.4 to 41.6) on the recent items")
    assert entry.evidence["contest"]["better"]
    assert entry.evidence["verdict"] == "untold"  # on the locked items alone
    with pytest.raises(NotBetter, match=r"worse: -35.0 points"):
        registry.promote(up("third", 0), "zoo", found=contest({"recent": (many, few)}))
    assert serving() == "second"


def test_by_force_with_a_reason_that_is_kept(up: Up) -> None:
    registry.promote(up("good", 5), "zoo")
    worse = up("worse", 100)
    with pytest.raises(UserError, match="needs a reason"):
        registry.promote(worse, "zoo", force=True)
    found = registry.promote(worse, "zoo", force=True, reason="half the size")
    assert (found.action, found.why, found.evidence["verdict"]) == ("force", "half the size", "worse")
    assert serving() == "worse"
    assert registry.promote(up("better", 0), "zoo", force=True, reason="and better").action == "promote"


def test_the_same_model_again_changes_nothing(up: Up) -> None:
    run = up("first")
    assert registry.promote(run, "zoo") == registry.promote(run, "zoo")
    assert len(registry.log("zoo")) == 1


def test_rollback_goes_back_one_by_one(up: Up) -> None:
    for name, wrong in {"a": 100, "b": 50, "c": 0}.items():
        registry.promote(up(name, wrong), "zoo")
    assert registry.rollback("zoo", "it is slow").run == "b"
    assert serving() == "b"
    assert registry.rollback("zoo").version == 1
    assert serving() == "a"
    with pytest.raises(UserError, match="the only one so far"):
        registry.rollback("zoo")
    registry.promote(up("d", 20), "zoo")
    assert (serving(), registry.log("zoo")[-1].version) == ("d", 4)
    assert registry.rollback("zoo").run == "a", "what was rolled back does not come back"


def test_other_test_items_are_no_evidence(up: Up, made: Made, truth: list[int]) -> None:
    registry.promote(up("a", 100), "zoo")
    run = up("b", 0)
    (run.path / "predictions.parquet").unlink()
    other = made("other", truth[:200], truth[:200])
    (other / "predictions.parquet").rename(run.path / "predictions.parquet")
    with pytest.raises(NotBetter, match=r"it can't be judged.*not judged on the same items"):
        registry.promote(run, "zoo")
    assert registry.promote(run, "zoo", force=True, reason="new test photos").action == "force"
    with pytest.raises(NotBetter):
        registry.promote(up("c", 0), "zoo")


def test_the_evidence_outlives_the_run(up: Up) -> None:
    import shutil

    first = up("first", 100)
    registry.promote(first, "zoo")
    shutil.rmtree(first.path)
    assert registry.promote(up("second", 0), "zoo").evidence["a"] == pytest.approx(2 / 3)


def test_what_can_be_no_champion(up: Up, made: Made, truth: list[int]) -> None:
    with pytest.raises(BundleError, match="no finished model"):
        registry.promote(Run(path=made("bare", truth, truth)), "zoo")
    with pytest.raises(BundleError, match="it is failed"):
        registry.promote(up("failed", state="failed"), "zoo")
    with pytest.raises(NotBetter, match="it was tested on no items"):
        registry.promote(up("untested", test=None), "zoo")
    assert registry.champion("zoo") is None
    assert registry.names() == []
    with pytest.raises(UserError, match="can't name a model"):
        registry.promote(up("fine"), "two words")


def test_a_path_may_be_named(up: Up, tmp_path: Path) -> None:
    registry.promote(up("a"), str(tmp_path / "shared" / "birds"))
    assert serving(f"{tmp_path}/shared/birds") == "a"


def test_a_log_that_was_changed_is_not_believed(up: Up) -> None:
    registry.promote(up("a", 100), "zoo")
    registry.promote(up("b", 0), "zoo")
    path = registry.folder_of("zoo") / "log.jsonl"
    told = path.read_text()
    path.write_text(told.replace('"accuracy": 0.6666666666666666', '"accuracy": 0.9'))
    with pytest.raises(StorageError, match="line 2 does not follow"):
        registry.champion("zoo")
    path.write_text("".join(told.splitlines(keepends=True)[1:]))
    with pytest.raises(StorageError, match="line 1 does not follow"):
        registry.promote(up("c"), "zoo")


def test_what_a_kill_left_is_set_right(up: Up) -> None:
    registry.promote(up("a", 100), "zoo")
    folder = registry.folder_of("zoo")
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"number": 2, "action": "promote", "ver')  # killed while it wrote the line
    (folder / "versions" / "0002" / "bundle").mkdir(parents=True)  # killed before it wrote the line
    (folder / "versions" / f".tmp-{os.getpid()}-0123abcd").mkdir()
    (folder / "champion").unlink()
    (folder / "champion").symlink_to("versions/0002")  # and nobody knows why
    found = registry.champion("zoo")
    assert found is not None
    assert found.parent.name == "0001"
    registry.promote(up("b", 0), "zoo")
    assert serving() == "b"
    assert sorted(path.name for path in (folder / "versions").iterdir()) == ["0001", "0002"]
    assert (folder / "versions" / "0002" / "bundle" / "model.onnx").is_file()


def test_who_waits_too_long_is_told(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    run = up("a")
    registry.promote(run, "zoo")
    monkeypatch.setattr(registry, "PATIENCE", 0.1)
    held = lock.take(registry.folder_of("zoo") / "lock")
    assert held is not None
    with pytest.raises(UserError, match="Another process"):
        registry.promote(up("b", 0), "zoo")
    held.release()


# Promotes runs of its own one after the other: better ones by evidence, others by force, now and then back.
CHILD = """\
import random, sys
from pathlib import Path
from inflame.errors import InflameError
from inflame.factory import registry
from inflame.factory.contest import contest
from inflame.runs import Run, find
rng = random.Random(int(sys.argv[1]))
names = sys.argv[2:]
print("ready", flush=True)
while True:
    try:
        if rng.random() < 0.2:
            entry = registry.rollback("zoo", f"r{rng.random()}")
        else:
            force = rng.random() < 0.5
            entry = registry.promote(find(rng.choice(names)), "zoo", force=force, reason=f"f{rng.random()}")
        print("done", entry.number, entry.action, entry.version, flush=True)
    except InflameError as error:
        print("not", type(error).__name__, flush=True)
"""


def test_promotions_at_once_and_kills_in_between(up: Up, home: Path) -> None:
    """Four processes promote and roll back at once; one after the other is killed at any moment and replaced. What was
    told to be done is in the log, once; the log is whole, the link is right, and every version is complete."""
    names = []
    for place, wrong in enumerate((90, 60, 30, 3)):
        names.append(f"run-{place}")
        up(f"run-{place}", wrong)
    registry.promote(Run(path=home / "runs" / "run-0"), "zoo")
    rng, outputs = random.Random(0), []
    environment = {**os.environ, "INFLAME_HOME": str(home)}

    def start(seed: int) -> subprocess.Popen[str]:
        path = home / f"out-{seed}.txt"
        outputs.append(path)
        with path.open("w") as file:
            return subprocess.Popen([sys.executable, "-c", CHILD, str(seed), *names], stdout=file, env=environment)

    def done() -> list[list[str]]:
        lines = [line for path in outputs for line in path.read_text().splitlines(keepends=True)]
        return [line.split() for line in lines if line.startswith("done") and line.endswith("\n")]

    children, pause = [start(seed) for seed in range(4)], 1.0
    for kill in range(24):
        before = len(done())
        time.sleep(pause * rng.uniform(0.1, 0.35))
        pause *= 1 if len(done()) > before else 1.3  # a machine on which they hardly begin in that time
        victim = rng.randrange(4)
        children[victim].send_signal(signal.SIGKILL)
        children[victim].wait()
        children[victim] = start(100 + kill)
    time.sleep(0.5)
    for child in children:
        child.kill()
        child.wait()
    told = done()
    entries = {entry.number: entry for entry in registry.log("zoo")}  # raises if the chain is broken
    assert len(told) > 20, "the test must have something to see"
    for _, number, action, version in told:
        assert (entries[int(number)].action, entries[int(number)].version) == (action, int(version))
    registry.promote(Run(path=home / "runs" / "run-0"), "zoo", force=True, reason="the last word")
    folder = registry.folder_of("zoo")
    assert serving() == "run-0"
    assert not list(folder.rglob(".tmp-*"))
    for entry in entries.values():
        place = folder / "versions" / f"{entry.version:04}"
        content = (place / "bundle" / "model.onnx").read_bytes()
        assert (
            json.loads((place / "bundle" / "bundle.json").read_text())["version"] == hashlib.sha256(content).hexdigest()
        )
        assert (place / "predictions.parquet").is_file()
    by_evidence = [entry for entry in entries.values() if entry.action == "promote" and entry.number > 1]
    assert all(entry.evidence["verdict"] == "better" for entry in by_evidence)


# Promotes one run, and is killed at one step of it: before or after the step is done.
KILLED = """\
import os, shutil, signal, sys
from pathlib import Path
from inflame.factory import registry
from inflame.factory.contest import contest
from inflame.runs import find
step, late = sys.argv[1], sys.argv[2] == "after"
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def deadly(act):
    def does(*given, **named):
        if not late:
            die()
        act(*given, **named)
        die()
    return does
if step == "half a line":
    write = os.write
    def half(descriptor, content):
        if b"previous" in content:
            write(descriptor, content[: len(content) // 2])
            die()
        return write(descriptor, content)
    os.write = half
elif step == "the link":
    Path.symlink_to = deadly(Path.symlink_to)
elif step == "the copy":
    shutil.copytree = deadly(shutil.copytree)
else:
    setattr(registry, step, deadly(getattr(registry, step)))
registry.promote(find("second"), "zoo")
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["the copy", "_keep", "half a line", "_append", "the link", "_point"])
def test_a_kill_at_each_step(up: Up, home: Path, step: str, when: str) -> None:
    """The champion of before or the new one serves, whole, and the next promotion sets everything right."""
    registry.promote(up("first", 60), "zoo")
    up("second", 20)
    environment = {**os.environ, "INFLAME_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", KILLED, step, when], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    moved = (step, when) in {("_append", "after"), ("the link", "before"), ("the link", "after"), ("_point", "after")}
    found = registry.champion("zoo")
    assert found is not None
    # The first step that a promotion takes is to set the link right, so `_point` comes before anything else.
    expected = "second" if moved and step != "_point" else "first"
    assert (found / "model.onnx").read_text().startswith(f"weights of {expected}")
    third = up("third", 0)
    assert registry.promote(third, "zoo").evidence["champion"] == expected
    assert serving() == "third"
    folder = registry.folder_of("zoo")
    assert not list(folder.rglob(".tmp-*"))
    versions = [entry.version for entry in registry.log("zoo")]
    assert sorted(path.name for path in (folder / "versions").iterdir()) == [f"{n:04}" for n in sorted(versions)]


# --- the verbs -------------------------------------------------------------------------------------


def test_the_verbs(up: Up, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from inflame.model.engine import seal

    monkeypatch.setattr(seal, "verify", lambda folder: {})  # the bundles of these tests are made up
    up("first", 60)
    up("second", 20)
    up("third", 21)
    assert main(["promote"]) == 0
    assert "no model has a name yet" in capsys.readouterr().out
    assert main(["promote", "first"]) == 0
    assert capsys.readouterr().out.startswith("first is the champion of zoo now, version 1: the first of its name\n")
    assert main(["promote", "second", "--as", "zoo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evidence"]["verdict"] == "better"
    assert main(["promote", "third"]) == 1
    assert "do: Improve it, or: inflame promote third --as zoo --force" in capsys.readouterr().err
    assert main(["promote", "third", "--force"]) == 2
    assert main(["promote", "third", "--force", "--reason", "it is small"]) == 0
    assert main(["rollback", "zoo", "--reason", "too small"]) == 0
    assert "second is the champion of zoo again, version 2" in capsys.readouterr().out
    assert main(["promote", "--log", "zoo"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[1:]] == ["1", "2", "3", "4", "5"]
    assert "it is small" in said
    assert main(["promote"]) == 0
    assert "second" in capsys.readouterr().out
    assert main(["rollback", "zo"]) == 2
    assert 'Did you mean "zoo"?' in capsys.readouterr().err
    assert main(["promote", "fist"]) == 2
    assert 'Did you mean "first"?' in capsys.readouterr().err
    assert main(["promote", "--log", "zo", "--json"]) == 2


def test_a_bundle_that_was_changed_is_not_promoted(up: Up, capsys: pytest.CaptureFixture[str]) -> None:
    up("first")
    assert main(["promote", "first"]) == 2
    assert "The bundle can't be trusted" in capsys.readouterr().err
    assert registry.names() == []
    assert not list((store.home() / "models").rglob("0001"))
