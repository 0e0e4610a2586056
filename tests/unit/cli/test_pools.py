"""Where the trials of a sweep run: what is refused before anything is begun or sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inflame.cli.main import main

KUBERNETES = ("--on", "kubernetes", "--output", "s3://bucket/x")
SAGEMAKER = ("--on", "sagemaker", "--output", "s3://bucket/x", "--no-rehearsal")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--on", "sagmaker"), 'Did you mean "sagemaker"'),
        (("--on", "slurm"), "A trial on slurm is a job"),
        (("--spot",), "--spot is for trials that are jobs"),
        (("--env", "TOKEN"), "--env is for trials that are jobs"),
        (("--on", "ray", "--address", "head:6379", "--output", "/shared"), "--address names a cluster"),
        ((*KUBERNETES, "--max-money", "5"), "costs is unknown, so --max-money can't be kept"),
        ((*KUBERNETES, "--max-money", "0"), "--max-money takes US dollars"),
        ((*KUBERNETES, "--price", "-1"), "--price takes US dollars"),
        (("--max-money", "5"), "needs the price of an hour of this machine"),
        ((*SAGEMAKER, "--machine", "gpu-smal"), 'Did you mean "gpu-small"'),
        (("--on", "sagemaker", "--output", "/home/x"), "needs an output that outlives its machine"),
        ((*SAGEMAKER, "io.training_input=HERE"), "is on this machine, and the job on sagemaker can't see it"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_starts(
    words: tuple[str, ...],
    says: str,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INFLAME_SAGEMAKER_ROLE", "arn:aws:iam::123456789012:role/inflame")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    given = [word.replace("HERE", str(tmp_path)) for word in words]
    assert main(["sweep", "mnist", "seed=1,2", *given, "--json"]) == 2
    assert says in json.loads(capsys.readouterr().out)["error"]
    assert not (home / "sweeps").exists() or not list((home / "sweeps").iterdir())
