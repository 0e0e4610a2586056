"""A shadow answers silently, a canary a share of the clients; one that does worse is ended, and nobody notices."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from scipy import stats

from inflame.cli import web as cli
from inflame.cli.main import parser
from inflame.errors import UserError
from inflame.model.engine.bundle import amend
from inflame.monitor.log import Log
from inflame.web.trials import Count, Plan, Trial, longer, more_often, worse

Serve = Callable[..., httpx.Client]


@pytest.fixture
def other(fruit_bundle: Path, tmp_path: Path) -> Path:
    """Another version of the fruit: it says the same."""
    folder = Path(shutil.copytree(fruit_bundle, tmp_path / "other"))
    amend(folder, {"card.md": b"# another\n"})
    return folder


def trial_of(client: httpx.Client) -> Trial:
    return client.app.state.service.trials["fruit"]  # type: ignore[attr-defined, no-any-return]


def asked(client: httpx.Client, content: bytes, name: str = "") -> dict[str, Any]:
    reply = client.post("/v1/classify", files={"file": content}, headers={"X-Client-Id": name} if name else {})
    assert reply.status_code == 200, reply.text
    return dict(reply.json()["results"][0])


def test_a_shadow_answers_silently_and_its_answers_are_in_the_log(serve: Serve, other: Path, apple: bytes) -> None:
    client = serve(plan=Plan(kind="shadow", folder=other))
    said = [asked(client, apple) for _ in range(5)]
    version = json.loads((other / "bundle.json").read_bytes())["version"][:12]
    assert version not in {one["version"] for one in said}
    end = time.monotonic() + 20
    while (told := client.get("/v1/models").json()["models"][0]["trial"])["compared"] < 5:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert (told["kind"], told["version"], told["same"], told["missed"]) == ("shadow", version, 5, 0)
    client.app.state.service.store.settle()  # type: ignore[attr-defined]
    log = Log()
    rows = log.query("SELECT model, input, label FROM predictions WHERE source = ?", ["shadow"])
    assert rows == [(version, said[0]["sha256"], "apple")] * 5
    assert log.model(version)
    assert log.models() == [said[0]["version"], version]  # what was told to people is looked at first
    log.close()


def test_a_canary_answers_always_the_same_clients(serve: Serve, other: Path, apple: bytes) -> None:
    client = serve(plan=Plan(kind="canary", folder=other, share=0.5))
    trial = trial_of(client)
    names = [f"client-{number}" for number in range(20)]
    first = {name: asked(client, apple, name)["version"] for name in names}
    again = {name: asked(client, apple, name)["version"] for name in names}
    assert first == again
    assert set(first.values()) == {trial.served.version, client.app.state.service.slots["fruit"].current.version}  # type: ignore[attr-defined]
    share = sum(trial.takes(f"someone {number}") for number in range(4000)) / 4000
    assert share == pytest.approx(0.5, abs=0.04)
    one = asked(client, apple, names[0])
    assert client.get(f"/v1/results/{one['id']}").json()["version"] == one["version"]
    told = client.post("/v1/models/fruit/rollback").json()  # ends the canary at once
    assert told["version"] != trial.served.version
    assert {asked(client, apple, name)["version"] for name in names} == {told["version"]}
    assert trial.told()["ended"] == "taken back"


def test_a_canary_that_fails_is_ended_and_its_clients_get_answers_all_the_while(
    serve: Serve, other: Path, apple: bytes
) -> None:
    client = serve(plan=Plan(kind="canary", folder=other, share=1.0))
    trial = trial_of(client)

    def broken(contents: Sequence[bytes]) -> list[Any]:
        raise RuntimeError("a fault of the canary")

    trial.queue._act = broken
    for number in range(12):
        assert asked(client, apple, f"client-{number}")["version"] != trial.served.version
    assert "fails" in trial.told()["ended"]
    assert trial.told()["requests"]["failed"] == 10  # then it was asked no more


def test_a_slow_canary_is_ended_by_a_test() -> None:
    draw = random.Random(1)

    def count(middle: float, n: int = 200) -> Count:
        return Count(asked=n, times=deque(draw.gauss(middle, 0.002) for _ in range(n)))

    assert not worse(count(0.010), count(0.010))
    assert not worse(count(0.0105), count(0.010))  # surely slower, but by too little to matter
    assert "takes longer" in worse(count(0.014), count(0.010))
    assert not worse(count(0.030, 20), count(0.010))  # too few to say
    assert "more often" in worse(Count(asked=200, failed=20), Count(asked=200))


def test_a_good_canary_is_seldom_ended() -> None:
    """As often as the level says, over a thousand pairs that are alike."""
    draw = random.Random(2)
    ended = 0
    for _ in range(1000):
        mine, other = ([draw.lognormvariate(-4, 0.5) for _ in range(60)] for _ in range(2))
        ended += longer(mine, other) < 0.01
    assert ended < 25


@pytest.mark.parametrize(
    ("k", "n", "j", "m"), [(0, 30, 0, 30), (3, 30, 0, 40), (10, 10, 0, 10), (5, 50, 7, 60), (1, 9, 9, 9)]
)
def test_the_tests_are_those_of_the_books(k: int, n: int, j: int, m: int) -> None:
    expected = stats.fisher_exact([[k, n - k], [j, m - j]], alternative="greater").pvalue
    assert more_often(k, n, j, m) == pytest.approx(expected, rel=1e-6)
    draw = random.Random(n)
    one, other = [draw.random() + 0.2 for _ in range(40)], [draw.random() for _ in range(50)]
    expected = stats.mannwhitneyu(one, other, alternative="greater", method="asymptotic").pvalue
    assert longer(one, other) == pytest.approx(expected, rel=1e-3)


def test_words_of_the_command_line(fruit_bundle: Path) -> None:
    def plan(*words: str) -> Plan | None:
        return cli._plan(parser("serve").parse_args([str(fruit_bundle), *words]))

    assert plan() is None
    assert plan("--shadow", str(fruit_bundle)) == Plan(kind="shadow", folder=fruit_bundle)
    for share, said in ((0.1, ""), (0.05, "=5%"), (0.25, "=0.25"), (1.0, "=100%")):
        assert plan("--canary", f"{fruit_bundle}{said}") == Plan(kind="canary", folder=fruit_bundle, share=share)
    for wrong in (
        ["--canary", f"{fruit_bundle}=much"],
        ["--canary", f"{fruit_bundle}=0%"],
        ["--shadow", "a", "--canary", "b=1%"],
    ):
        with pytest.raises(UserError, match=r"share|%|One model"):
            plan(*wrong)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_must_be_one(share: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="%"):
        Plan(kind="canary", folder=tmp_path, share=share)
