"""The verb monitor in this process, on a real model of digits: what it says, to whom, and which codes it ends with."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from inflame import plugins
from inflame.artifact import manifest, spoil
from inflame.artifact.contents import Contents
from inflame.cli.main import main
from inflame.model.engine import switchboard
from inflame.model.engine.expecting import Asked
from inflame.model.engine.predictor import Predictor
from inflame.monitor.drift import RISK
from inflame.monitor.entries import Entry, Verdict
from inflame.monitor.log import Log

Says = tuple[str, str]
DAY = 1_790_000_000.0  # the 21st of September 2026


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run, which has learned what to expect."""
    folder = tmp_path_factory.mktemp("run") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFLAME_HOME", str(tmp_path_factory.mktemp("first-home")))
        words = ["limit=900", "hyperparam.num_epochs=3", f"output={folder}"]
        assert switchboard.main(plugins.model_folder("mnist"), ["train", "digits", *words]) == 0
        assert main(["monitor", "learn", "--model", str(folder), "--in", "8s"]) == 0
    return folder


@pytest.fixture(scope="module")
def items(run: Path) -> list[bytes]:
    """The test items as they came: nothing was learned from them."""
    dataset = manifest.load(run)
    return [Contents(dataset.root).read(uri) for uri in dataset.split("test").items["uri"].to_pylist()]


@pytest.fixture(scope="module")
def pictures(run: Path, items: list[bytes]) -> NDArray[np.uint8]:
    """The same as the net sees them [N,S,S,C]."""
    predictor = Predictor(run / "bundle")
    return np.stack([predictor.read(item) for item in items])


def png(picture: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(file, "PNG")
    return file.getvalue()


def answered(run: Path, contents: Sequence[bytes], start: float = DAY) -> list[Entry]:
    """What a server would log of them, one a second."""
    predictor = Predictor(run / "bundle")
    found, _ = Asked(predictor)(contents)
    return [
        Entry(
            model=predictor.version,
            input=f"{start:.0f}-{row}",
            label=predictor.classes[int(found.probabilities[row].argmax())],
            probability=float(found.probabilities[row].max()),
            known=bool(found.known[row]),
            probabilities=found.probabilities[row],
            embedding=found.embedding[row],
            seen=found.seen[row],
            kind=found.kinds[row],
            time=start + row,
            source="test",
        )
        for row in range(len(contents))
    ]


def folder_of(place: Path, contents: Sequence[bytes]) -> str:
    place.mkdir()
    for number, content in enumerate(contents):
        (place / f"{number:03}.png").write_bytes(content)
    return str(place)


@pytest.fixture
def log(home: Path) -> Iterator[Log]:
    """The log that is taken where none is named."""
    opened = Log()
    yield opened
    opened.close()


@pytest.fixture
def say(run: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Gives the verb some words about the run; (stdout, stderr) of it."""

    def call(*words: str, code: int = 0, model: Path = run) -> Says:
        capsys.readouterr()
        ended = main(["monitor", *words, "--model", str(model)])
        out, err = capsys.readouterr()
        assert ended == code, out + err
        return out, err

    return call


# --- files ---------------------------------------------------------------------------------------


def test_new_digits_are_quiet_and_spoiled_ones_make_a_page(
    say: Any, items: list[bytes], pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    quiet = json.loads(say("check", folder_of(tmp_path / "new", items), "--json")[0])
    assert (quiet["level"] != RISK, quiet["unreadable"]) == (True, 0)
    noisy = spoil.noise(pictures[:60], 0.9, np.random.default_rng(0))
    worse = folder_of(tmp_path / "worse", [*map(png, noisy), items[0][:40]])
    page = tmp_path / "page.html"
    out, err = say("check", worse, "--html", str(page), code=1)
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if " " in line)
    assert out.startswith("accuracy at risk 60 items against mnist ")
    assert lines["unreadable"] == "1"
    assert "more noise" in out
    assert "noise" in out.split("most unlike")[0]
    assert str(page) in err
    assert page.read_text().count("data:image/jpeg") == 8  # the most unlike, shown


def test_fewer_than_ten_items_tell_nothing(say: Any, items: list[bytes], tmp_path: Path) -> None:
    place = folder_of(tmp_path / "few", [*items[:9], b"no picture"])
    err = say("check", place, code=2)[1]
    assert "9 items that can be read are too few" in err


def test_a_folder_alone_is_what_is_checked(say: Any, items: list[bytes], tmp_path: Path) -> None:
    place = folder_of(tmp_path / "new", items[:40])
    assert json.loads(say(place, "--json")[0])["items"] == 40  # without the word check


# --- the log -------------------------------------------------------------------------------------


def test_the_log_is_checked_once_and_measured_beside(
    say: Any, log: Log, run: Path, items: list[bytes], tmp_path: Path
) -> None:
    entries = answered(run, items[:80])
    log.add(entries)
    for number, one in enumerate(entries[:40]):
        log.verdict(Verdict(answer=one.id, said="right" if number % 10 else "wrong", who="ann", asked=True))
    page = tmp_path / "page.html"
    out = say("window=50", "--html", str(page))[0]
    assert re.match(r"(quiet|input changed) +50 items against mnist ", out)
    assert "measured         0.900 (0.769–0.960) of 40 chosen at random" in out
    assert "50 items" in page.read_text()
    assert say("window=50")[0].startswith("nothing to check: 30 new answers of ")
    told = json.loads(say("window=50", "--json")[0])
    assert (told["new"], told["level"], told["foreign"]) == (30, None, 0)
    assert " 50 items against mnist " in say("window=50", "--all")[0]


def test_answers_of_other_models_are_counted_and_left_alone(say: Any, log: Log, run: Path, items: list[bytes]) -> None:
    log.add([dataclasses.replace(one, probabilities=np.ones(2)) for one in answered(run, items[:12])])
    assert "12 entries were made by other models" in say()[0]


def test_an_alarm_is_told_once_by_whichever_way_the_place_is_named(
    say: Any,
    log: Log,
    run: Path,
    pictures: NDArray[np.uint8],
    webhook: tuple[str, list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, heard = webhook
    log.add(answered(run, [*map(png, spoil.cover(pictures[:60], 0.9, np.random.default_rng(1)))]))
    out, err = say("window=50", "--alert", url, code=1)
    assert "rings            accuracy at risk" in out
    assert "told     http://127.0.0.1/…" in err
    assert "secret-path" not in err
    assert len(heard) == 1
    monkeypatch.setenv("INFLAME_ALERT", url)
    log.add(answered(run, [*map(png, spoil.cover(pictures[60:120], 0.9, np.random.default_rng(1)))], start=DAY + 900))
    assert "told" not in say("window=50", code=1)[1]  # it still rings …
    assert len(heard) == 1  # … and was told


# --- learn, export, forget -----------------------------------------------------------------------


def test_a_bundle_that_expects_nothing_says_what_to_do_and_learns(say: Any, run: Path, tmp_path: Path) -> None:
    from inflame.model.engine import seal

    old = Path(shutil.copytree(run, tmp_path / "old"))
    (old / "bundle/expected.npz").unlink()
    facts = json.loads((old / "bundle/bundle.json").read_text())
    seal.seal(old / "bundle", {key: facts[key] for key in ("model", "dataset", "net")})
    for words in ([], ["rehearse"]):
        assert f"inflame monitor learn --model {old}" in say(*words, code=2, model=old)[1]
    told = json.loads(say("learn", "--in", "0.5s", "--json", model=old)[0])
    assert told["estimator"] == {}  # too little time for one
    assert Predictor(old / "bundle").expected


def test_the_log_goes_out_as_files_and_is_checked_from_there(
    say: Any, log: Log, run: Path, items: list[bytes], tmp_path: Path
) -> None:
    log.add([*answered(run, items[:60]), *answered(run, items[60:80], start=DAY + 86_400)])
    place = str(tmp_path / "out")
    assert json.loads(say("export", place, "--json")[0])["days"] == {"2026-09-21": 60, "2026-09-22": 20}
    assert say("export", place)[0].startswith("wrote ")
    found = json.loads(say("check", place, "window=50", "--json")[0])
    assert found["items"] == 50
    few = str(tmp_path / "few")
    log.forget(before=DAY + 86_400 + 15)
    say("export", few)
    assert "5 answers of " in say("check", few, code=2)[1]
    assert json.loads(say("forget", "--before", "2026-09-23", "--json")[0]) == {"forgotten": 5}
    assert "forgot 0 answers" in say("forget", "--input", "ABC")[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["chek"], 'Did you mean "check"'),
        (["--window", "3"], "window=10"),
        (["forget"], "what to forget"),
        (["forget", "--before", "soon"], "is no date"),
        (["export"], "Say where to"),
        (["learn", "now"], "no further word"),
        (["check", "nowhere/"], "not a file here"),
        (["rehearse", "noise", "blur"], "One change at a time"),
        (["rehearse", "nois"], 'Did you mean "noise"'),
        (["rehearse", "noise=loud"], 'not "loud"'),
        (["rehearse", "noise=1.5"], "up to 1"),
        (["rehearse", "--windows", "0"], "1 to 100 windows"),
    ],
)
def test_mistakes(say: Any, words: list[str], told: str) -> None:
    assert told in say(*words, code=2)[1]


# --- rehearse ------------------------------------------------------------------------------------


def test_a_rehearsal_rings_after_the_change_and_not_before(say: Any) -> None:
    found = json.loads(say("rehearse", "turn=0.9", "--windows", "1", "--window", "100", "--json")[0])
    assert [row["severity"] for row in found["windows"]] == [0.0, 0.0, 0.9]
    assert found["windows"][0]["level"] != RISK  # a clean window may look changed once in a hundred
    assert found["rang"][RISK] == 100
    assert found["windows"][2]["accuracy"] < found["windows"][0]["accuracy"]


def test_a_rehearsal_of_another_mix_of_classes_is_a_table(say: Any) -> None:
    out = say("rehearse", "labelshift", "--gradual", "--windows", "2", "--window", "60")[0]
    rows = [line.split() for line in out.splitlines()[1:5]]
    assert [row[:2] for row in rows] == [["1", "0.00"], ["2", "0.00"], ["3", "0.40"], ["4", "0.80"]]
    assert RISK in out


def test_without_enough_held_out_items_nothing_is_rehearsed(say: Any, run: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    short = Path(shutil.copytree(run, tmp_path / "short"))
    items = pq.read_table(short / "items.parquet")
    kept = [row for row, split in enumerate(items["split"].to_pylist()) if split != "test"]
    pq.write_table(items.take(kept), short / "items.parquet")
    assert "0 test items are too few" in say("rehearse", code=2, model=short)[1]
