"""What every place that runs jobs promises, to be tested with its own control plane: `class TestPromises(Promises)`.

The test module of a place has the fixtures `place`, `control` (with `forget` and `take_away`), `server`, `spec`,
`packed`, and `faults`: what its service answers on bad days, request by request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from inflame import store
from inflame.infra.cluster import where
from inflame.infra.launcher import Launcher
from inflame.records import Job, JobSpec, Package

Wait = Callable[..., Job]
Spec = Callable[..., JobSpec]
AtWork = Callable[[Launcher, Job], None]
Seen = Callable[..., dict[str, Any]]


class Promises:
    """Of every place. `failed`: what it says of a job that ended with code 3."""

    failed = ""

    def names(self, place: Any, control: Any) -> list[str]:
        """Of the jobs that the control plane has."""
        return list(control.jobs)

    def senders(self, place: Any) -> Sequence[Launcher]:
        """Three that send at once, as from three terminals."""
        return [type(place)(place.settings) for _ in range(3)]

    def test_a_failure_has_its_code(self, place: Launcher, spec: Spec, packed: Package, wait: Wait) -> None:
        job = wait(place, place.send(place.request(spec("code=3"), packed)))
        assert (job.status, job.code) == ("failed", 3)
        assert self.failed
        assert self.failed in job.reason

    def test_stop_lets_the_job_save(
        self, place: Launcher, spec: Spec, packed: Package, wait: Wait, at_work: AtWork
    ) -> None:
        asked = spec("sleep=60")
        job = place.send(place.request(asked, packed))
        at_work(place, job)
        place.cancel(job)
        ended = wait(place, job)
        assert (ended.status, ended.code) == ("stopped", 143)
        assert store.exists(f"{asked.output}/run/saved")

    def test_on_a_bad_day_there_is_one_job_in_the_end(
        self, faults: list[str], place: Any, server: Any, control: Any, spec: Spec, packed: Package, wait: Wait
    ) -> None:
        asked = spec("until=over")  # not over while it is sent: it would be sent again
        request = place.request(asked, packed)
        server.faults += faults
        job = place.send(request)
        assert not server.faults, "the bad day was over before it began"
        assert self.names(place, control) == [job.id]
        store.write(f"{asked.output}/over", "")
        assert wait(place, job).status == "done"

    def test_sent_by_three_at_once_is_one_job(
        self, place: Any, control: Any, spec: Spec, packed: Package, wait: Wait
    ) -> None:
        asked = spec("until=over")  # not over before the last of them has looked
        request = place.request(asked, packed)
        with ThreadPoolExecutor() as pool:
            jobs = list(pool.map(lambda one: one.send(request), self.senders(place)))
        assert len(jobs) == 3
        assert {job.id for job in jobs} == set(self.names(place, control))
        assert len(self.names(place, control)) == 1
        store.write(f"{asked.output}/over", "")
        assert wait(place, jobs[0]).status == "done"
        assert place.send(request).id != jobs[0].id, "it has ended: this is a new one"

    def test_a_job_deleted_behind_our_back_has_ended(
        self, place: Launcher, control: Any, spec: Spec, packed: Package, wait: Wait
    ) -> None:
        job = place.send(place.request(spec("sleep=60"), packed))
        wait(place, job, "running")
        control.forget(job.id)
        gone = place.status(job)
        assert (gone.status, gone.code) == ("failed", 137)
        assert "deleted" in gone.reason
        assert place.cancel(job).status == "failed"


class Spot:
    """Of a place whose machines may be taken away."""

    def test_a_machine_that_is_taken_away_is_replaced(
        self, place: Launcher, control: Any, spec: Spec, packed: Package, wait: Wait, seen: Seen, at_work: AtWork
    ) -> None:
        job = place.send(place.request(spec("sleep=60", "stop=75", spot=True), packed))
        at_work(place, job)
        control.take_away(job.id)
        ended = wait(place, job)
        assert (ended.status, ended.code) == ("done", 0)
        assert seen(place.fetch(ended))["resumed"]


class Several:
    """Of a place whose jobs may have several machines. `who`: the variable that tells them apart; `first`: how they
    know the first one, and `platform` whose they are."""

    who, first, platform = "", "", ""

    def test_two_machines_from_end_to_end(
        self, place: Launcher, spec: Spec, packed: Package, wait: Wait, seen: Seen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOKEN", "hush")
        monkeypatch.setenv("OTHER", "stays here")
        words = (f"who={self.who}", "name=two words and 'quotes' $HOME", "--json")
        request = place.request(spec(*words, count=2, environment=("TOKEN",)), packed)
        assert "hush" not in json.dumps(request)
        job = wait(place, place.send(request))
        assert (job.status, job.code) == ("done", 0), list(place.logs(job))
        found = [seen(place.fetch(job), rank) for rank in ("0", "1")]
        assert found[0]["job"]["arguments"] == list(words)
        assert [one["environment"]["TOKEN"] for one in found] == ["hush", "hush"]
        assert "OTHER" not in found[0]["environment"]
        clusters = [where(one["environment"], one["job"]["count"]) for one in found]
        assert [(one.rank, one.machines) for one in clusters] == [(0, 2), (1, 2)]
        assert {(one.host, one.platform) for one in clusters} == {(self.first, self.platform)}
        assert len({one.port for one in clusters}) == 1
        assert sorted(place.logs(job)) == ["Grüße, line one"] * 2 + ["line two"] * 2
        assert place.cancel(job).status == "done"


class Timed:
    """Of a place that ends a job after its time. `late`: how that is said, as (status, reason)."""

    late = ("", "")

    def test_longer_than_allowed_is_ended(
        self, place: Launcher, spec: Spec, packed: Package, wait: Wait, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("inflame.infra.places.AFTER", 2.0)
        job = wait(place, place.send(place.request(spec("sleep=60", max_time=1), packed)))
        assert job.status == self.late[0]
        assert self.late[1] in job.reason
