from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from inflame.cli.main import main
from inflame.errors import DataError, UserError
from inflame.factory import chart, compare
from inflame.factory.evidence import Difference
from inflame.factory.judge import Verdict

Made = Callable[..., Path]
Spoil = Callable[[Sequence[int], Sequence[int]], list[int]]


def verdict(**given: object) -> Verdict:
    told = {"a": 0.5, "b": 0.531, "verdict": "better", "how": "", "items": 9, "seeds": (1, 1), "metric": "accuracy"}
    difference = Difference(value=0.031, low=0.004, high=0.059, p=0.02)
    return Verdict(**{"difference": difference, **told, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "B is better: +3.1 points (0.4 to 5.9)"),
        (
            {"verdict": "worse", "difference": Difference(value=-0.031, low=-0.059, high=-0.004, p=0.02)},
            "A is better: +3.1 points (0.4 to 5.9)",
        ),
        (
            {"verdict": "untold", "more_items": 60},
            "cannot tell: about 60 more pictures would do (+3.1 points, 0.4 to 5.9)",
        ),
        (
            {"verdict": "untold", "more_items": 61_234, "more_seeds": 3},
            "cannot tell: about 61,000 more pictures and 3 more seeds of each would do (+3.1 points, 0.4 to 5.9)",
        ),
        (
            {"verdict": "untold", "difference": Difference(value=0.0, low=-0.01, high=0.01, p=1.0)},
            "cannot tell: there is no difference to see (0.0 points, -1.0 to 1.0)",
        ),
        (
            {"metric": "log_loss", "difference": Difference(value=-0.25, low=-0.3, high=-0.2, p=0.0)},
            "B is better: -0.250 of log loss (-0.300 to -0.200)",
        ),
    ],
)
def test_the_verdict_in_words(given: dict[str, object], said: str) -> None:
    assert compare.sentence(verdict(**given), "A", "B", "pictures") == said


@pytest.fixture
def pair(made: Made, truth: list[int], spoilt: Spoil) -> None:
    made("poor", truth, spoilt(truth, range(60)), settings={"hyperparam": {"rate": 0.1, "same": 1}}, code="old")
    made("good", truth, spoilt(truth, range(50, 62)), settings={"hyperparam": {"rate": 0.2, "same": 1}})


@pytest.mark.usefixtures("pair")
def test_two_runs(capsys: pytest.CaptureFixture[str]) -> None:
    found = compare.compare("poor", "good")
    assert found.sentence.startswith("good is better: +16.0 points (")
    assert found.items == {"both": 238, "only_a": 2, "only_b": 50, "neither": 10}
    assert {item["uri"] for item in found.only_a} == {"test/00060.png", "test/00061.png"}
    assert all(item["a"] == item["label"] != item["b"] for item in found.only_a)
    assert found.settings == (("hyperparam.rate", 0.1, 0.2), ("version of the code", "old", "abc1234"))
    assert found.curves["a"]["accuracy"] == [[(i / 2, 0.5 + i / 20) for i in range(1, 6)]]
    assert main(["compare", "poor", "good"]) == 0
    said = capsys.readouterr().out
    assert "good is better" in said
    assert "238 right in both, 2 only in A, 50 only in B, 10 wrong in both" in said
    assert re.search(r"hyperparam.rate +0.1 +0.2", said)


@pytest.mark.usefixtures("pair")
def test_the_page_shows_pictures_where_they_still_are(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    from inflame import store

    picture = tmp_path / "data" / "test" / "00060.png"
    picture.parent.mkdir(parents=True)
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(picture)
    about = {"name": "zoo", "kind": "image", "root": str(tmp_path / "data")}
    (store.home() / "runs" / "poor" / "dataset.json").write_text(json.dumps(about))
    page = tmp_path / "c.html"
    assert main(["compare", "poor", "good", "--html", str(page), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["page"] == str(page)
    assert told["verdicts"][0]["difference"]["value"] == pytest.approx(0.16)
    text = page.read_text()
    assert text.count('<img src="data:image/jpeg') == 1
    assert text.count("picture not found") == 1 + compare.SHOWN
    assert text.count("<svg") == 2
    assert "<script" not in text


def test_groups_of_seeds(made: Made, truth: list[int], spoilt: Spoil, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        made(f"a-{seed}", truth, spoilt(truth, range(70 + seed)), settings={"seed": seed})
        made(f"b-{seed}", truth, spoilt(truth, range(20 + seed)), settings={"seed": seed, "hyperparam": {"x": 1}})
    found = compare.compare("a-0,a-1,a-2", "b-0,b-1,b-2")
    assert found.main.verdict == "better"
    assert found.main.seeds == (3, 3)
    assert found.settings == (("hyperparam.x", None, 1),)
    assert found.a.note == ""
    assert len(found.curves["b"]["loss"]) == 3
    assert compare.compare("a-0,b-1", "a-2").a.note == "its runs differ in more than the seed"
    assert main(["compare", "a-0,a-1", "b-0,b-1", "--by", "macro_f1"]) == 0
    assert "points of macro f1" in capsys.readouterr().out


def test_without_a_test_split_the_held_out_items_decide(made: Made, truth: list[int], spoilt: Spoil) -> None:
    made("a", truth, spoilt(truth, range(10)), test=None)
    made("b", truth, truth, test=None)
    found = compare.compare("a", "b")
    assert (found.part, found.main.items) == ("val", 20)
    assert compare.compare("a", "b", by="val.log_loss").by == "log_loss"


@pytest.mark.usefixtures("pair")
def test_what_cannot_be_compared(made: Made, truth: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    made("other", truth[:200], truth[:200], items="others")
    with pytest.raises(DataError, match="poor and other were not judged on the same items"):
        compare.compare("poor", "other")
    with pytest.raises(UserError, match="a run in common"):
        compare.compare("poor", "poor,good")
    with pytest.raises(UserError, match='"," names no run'):
        compare.compare("poor", ",")
    assert main(["compare", "poor", "goood"]) == 2
    assert 'Did you mean "good"?' in capsys.readouterr().err
    assert main(["compare", "poor", "good", "--by", "acuracy"]) == 2
    assert 'Did you mean "test.accuracy"?' in capsys.readouterr().err


def test_charts_say_what_they_show() -> None:
    drawn = chart.lines(
        [("a", [(0, 0.5), (10, 0.9)]), ("b", [(5, 0.7)])], label="a <b>", across="s", up="y", percent=True
    )
    assert drawn.count("<polyline") == drawn.count("<circle") == 1
    assert 'aria-label="a &lt;b&gt;"' in drawn
    assert "90 %" in drawn
    assert chart.lines([("a", [])], label="", across="", up="") == ""
    assert chart.ticks(0.5, 0.5, 4) == [0.4, 0.6, 0.8, 1.0]


def test_a_side_says_what_it_is_and_what_it_cost(made: Made, truth: list[int]) -> None:
    names = [f"a-quite-long-name-{seed}" for seed in range(3)]
    for seed, name in enumerate(names):
        made(name, truth, truth, settings={"seed": seed}, cost={"cpu_s": 7.0, "gpu_s": 2.0, "wall_s": 5.0})
    made("b", truth, truth, cost={"cpu_s": None, "gpu_s": 0.0, "wall_s": 3.0})
    found = compare.compare(",".join(names), "b")
    assert found.a.name == "a-quite-long-name-0 and 2 more"
    assert (found.a.runs, found.a.seeds) == (tuple(names), (0, 1, 2))
    assert [Path(folder).name for folder in found.a.folders] == names
    assert (found.a.model, found.a.dataset, found.b.name) == ("tiny", "zoo", "b")
    used = {name: found.a.cost[name] for name in ("cpu_s", "gpu_s", "wall_s")}
    assert used == {"cpu_s": 21.0, "gpu_s": 6.0, "wall_s": 15.0}
    assert found.b.cost["cpu_s"] == 0.0
    assert found.a.cost["money"] == pytest.approx((21 * 0.025 + 6 * 3.5) / 3600)
    assert found.a.cost["energy_wh"] == pytest.approx(1.2 * (21 * 6 + 6 * 500) / 3600)
    assert compare.compare("a-quite-long-name-0,a-quite-long-name-1", "b").a.name == ",".join(names[:2])


def test_settings_that_differ_are_short_and_what_is_no_recipe_is_left_out(made: Made, truth: list[int]) -> None:
    long, other = "0123456789abcdef" * 4, "f" * 64
    made("a", truth, truth, settings={"code": long, "hyperparam": {"x": [1, 2]}, "output": "here", "seed": 1})
    made("b", truth, truth, settings={"code": other, "hyperparam": {"x": [1, 3]}, "output": "there", "seed": 2})
    about = {"version": "w" * 64, "content": "c" * 16, "test": "items", "val": "items"}
    made("c", truth, truth, settings={"code": other, "hyperparam": {"x": [1, 3]}, "seed": 2}, data=about)
    found = {name: (one, two) for name, one, two in compare.compare("a", "b").settings}
    assert found == {
        "code of the model's folder": ("0123456789ab", "f" * 12),
        "hyperparam.x": ([1, 2], [1, 3]),
        "seed": (1, 2),
    }
    assert compare.compare("b", "c").settings == (("version of the data", "v" * 64, "w" * 64),)
    several = compare.compare("a,b", "c").settings
    assert ("hyperparam.x", "[1, 2], [1, 3]", [1, 3]) in several
    assert "seed" not in [name for name, *_ in several], "of several runs it is drawn"
    assert ("version of the data", "v" * 64, "w" * 64) in several


def test_the_items_most_in_dispute_come_first(made: Made, truth: list[int], spoilt: Spoil) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = made("a", truth, truth)
    made("b", truth, spoilt(truth, range(250)))
    table = pq.read_table(folder / "predictions.parquet")
    sure = table["suspect"].to_pylist()
    sure[7], sure[3] = 0.999999, 0.99999
    place = table.schema.get_field_index("suspect")
    pq.write_table(table.set_column(place, "suspect", pa.array(sure)), folder / "predictions.parquet")
    found = compare.compare("a", "b")
    assert [item["uri"] for item in found.only_a[:2]] == ["test/00007.png", "test/00003.png"]
    assert len(found.only_a) == compare.LISTED
    assert found.items["only_a"] == 250
    assert found.only_b == ()


@pytest.mark.parametrize(("kind", "thing"), [("text", "texts"), ("image", "pictures"), ("", "items")])
def test_things_have_their_name(kind: str, thing: str, made: Made, truth: list[int]) -> None:
    (made("a", truth, truth) / "dataset.json").write_text(json.dumps({"kind": kind, "root": "/data"}))
    made("b", truth, truth)
    found = compare.compare("a", "b")
    assert (found.thing, found.root) == (thing, "/data")
    assert found.main.metric == found.by == "accuracy"
    assert compare.compare("b", "a").root == ""


def test_long_curves_are_thinned_and_epochs_stand_for_seconds(made: Made, truth: list[int]) -> None:
    rows = [{"epoch": i, "val_accuracy": i / 1000, "val_loss": None} for i in range(1, 1001)]
    (made("a", truth, truth) / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made("b", truth, truth)
    found = compare.compare("a", "b").curves["a"]
    assert found["accuracy"][0][:3] == [(1.0, 0.001), (6.0, 0.006), (11.0, 0.011)]
    assert len(found["accuracy"][0]) == compare.CURVE
    assert found["loss"] == [[]]


def test_a_run_named_twice_counts_once(made: Made, truth: list[int]) -> None:
    made("a", truth, truth)
    made("b", truth, truth)
    assert compare.compare("a,a", "b").a.runs == ("a",)
