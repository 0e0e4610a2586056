from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as theirs

from inflame.errors import DataError
from inflame.factory import evidence
from inflame.factory.answers import Answers, Reader, demand_same
from inflame.factory.judge import METRICS, Side, interval, judge, value

Made = Callable[..., Path]
Spoil = Callable[[Sequence[int], Sequence[int]], list[int]]


def side(name: str, *runs: Answers) -> Side:
    return Side(name=name, blocks={"items": runs})


@pytest.fixture
def reader() -> Reader:
    return Reader()


def test_metrics_are_scikit_learns(made: Made, reader: Reader, truth: list[int]) -> None:
    said = np.random.default_rng(1).integers(0, 2, len(truth)).tolist()  # the third class is never answered
    run = reader.read(made("a", truth, said))
    labels, predicted = run.labels, run.predicted
    assert value("accuracy", run) == pytest.approx(theirs.accuracy_score(labels, predicted))
    assert value("macro_f1", run) == pytest.approx(theirs.f1_score(labels, predicted, average="macro"))
    assert value("balanced_accuracy", run) == pytest.approx(theirs.balanced_accuracy_score(labels, predicted))
    assert value("log_loss", run) == pytest.approx(run.loss.mean())


def test_two_runs_by_mcnemar(made: Made, reader: Reader, truth: list[int], spoilt: Spoil) -> None:
    a = reader.read(made("a", truth, spoilt(truth, range(40))))
    b = reader.read(made("b", truth, spoilt(truth, range(30, 46))))
    found = judge(side("a", a), side("b", b))
    assert (found.verdict, found.items, found.seeds) == ("better", 300, (1, 1))
    assert found.difference == evidence.newcombe(254, 6, 30, 10)
    assert found.how == "McNemar's test (mid-p)"
    assert (found.more_items, found.more_seeds) == (None, None), "nothing is lacking"
    other = judge(side("b", b), side("a", a))
    assert other.verdict == "worse"
    assert other.difference.value == -found.difference.value


def test_what_cannot_be_told_says_what_would_tell(made: Made, reader: Reader, truth: list[int], spoilt: Spoil) -> None:
    a = reader.read(made("a", truth, spoilt(truth, range(12))))
    b = reader.read(made("b", truth, spoilt(truth, range(4, 14))))
    found = judge(side("a", a), side("b", b))
    assert found.verdict == "untold"
    assert found.more_items == (evidence.items_to_tell(4, 2, 300) or 0) - 300
    same = judge(side("a", a), side("c", a))
    assert (same.verdict, same.more_items) == ("untold", None)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_sees_a_large_difference_and_no_false_one(
    made: Made, reader: Reader, truth: list[int], spoilt: Spoil, metric: str
) -> None:
    rng = np.random.default_rng(2)
    bad = reader.read(made("bad", truth, spoilt(truth, rng.permutation(300)[:90])))
    good = reader.read(made("good", truth, spoilt(truth, rng.permutation(300)[:30])))
    also = reader.read(made("also", truth, spoilt(truth, rng.permutation(300)[:31])))
    found = judge(side("bad", bad), side("good", good), metric)
    assert found.verdict == "better"
    assert found.difference.low <= found.difference.value <= found.difference.high
    assert found.difference.value == pytest.approx(value(metric, good) - value(metric, bad))
    assert judge(side("good", good), side("also", also), metric).verdict == "untold"
    low, high = interval(metric, [good])
    assert low < value(metric, good) < high


def test_a_recipe_must_hold_for_other_seeds_too(made: Made, reader: Reader, truth: list[int], spoilt: Spoil) -> None:
    """Two seeds that differ as much from each other as the recipes do: the items alone would say better."""
    a = [reader.read(made(f"a{n}", truth, spoilt(truth, range(n)))) for n in (20, 60)]
    b = [reader.read(made(f"b{n}", truth, spoilt(truth, range(n)))) for n in (5, 30)]
    found = judge(side("a", *a), side("b", *b))
    assert found.verdict == "untold"
    assert found.how == "paired t test over items and Welch's test over seeds"
    assert found.more_items is None
    assert found.more_seeds is not None
    steady = [reader.read(made(f"c{n}", truth, spoilt(truth, range(n)))) for n in (5, 6, 7)]
    poor = [reader.read(made(f"d{n}", truth, spoilt(truth, range(n)))) for n in (50, 52, 54)]
    assert judge(side("d", *poor), side("c", *steady)).verdict == "better"
    assert judge(side("d", *poor), side("c", *steady), "macro_f1").verdict == "better"


def test_seeds_with_test_items_of_their_own_are_paired_by_those(
    made: Made, reader: Reader, truth: list[int], spoilt: Spoil
) -> None:
    def runs(wrong: Sequence[int]) -> Side:
        found = {}
        for place, n in enumerate(wrong):
            labels = truth[place:] + truth[:place]
            found[f"split {place}"] = [reader.read(made(f"{wrong}{place}", labels, spoilt(labels, range(n))))]
        return Side(name=str(wrong), blocks=found)

    found = judge(runs((40, 50, 60)), runs((10, 21, 30)))
    assert (found.verdict, found.items, found.seeds) == ("better", 900, (3, 3))
    assert found.how == "paired t test over items and paired t test over seeds"
    assert found.difference.value == pytest.approx(89 / 900)
    assert judge(runs((41, 51)), runs((11, 22, 31)), "balanced_accuracy").seeds == (2, 2), "only what both have"


def test_other_items_are_refused(made: Made, reader: Reader, truth: list[int], spoilt: Spoil) -> None:
    a = reader.read(made("a", truth, truth))
    b = reader.read(made("b", truth[:200], truth[:200]))
    with pytest.raises(DataError, match="a and b were not judged on the same items") as error:
        judge(side("a", a), Side(name="b", blocks={"others": [b]}))
    assert "300 and 200 items" in error.value.where
    turned = reader.read(made("c", truth[::-1], truth[::-1]))
    with pytest.raises(DataError):
        demand_same([a, turned], ["a", "c"])


def test_answers_that_are_not_there(made: Made, reader: Reader, truth: list[int]) -> None:
    folder = made("a", truth, truth)
    (folder / "predictions.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match="The answers of a can't be read"):
        reader.read(folder)
    with pytest.raises(DataError, match="has no test items"):
        reader.read(_only_val(made("b", truth, truth)))


def _only_val(folder: Path) -> Path:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "predictions.parquet")
    pq.write_table(table.filter(pc.equal(table["split"], "val")), folder / "predictions.parquet")
    return folder
