"""The steps of the workflows `train` and `deploy`, run as they stand there: by bash, with the environment of their job,
in a repository of git's. What they would reach outside is a folder (buckets) or notes what it is told."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from inflame.model.engine import seal

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"
VARIABLES = {
    "GCP_PROJECT": "p",
    "GCP_REGION": "europe-west1",
    "GCP_JOB": "inflame-job@p.iam.gserviceaccount.com",
    "GCP_RUNS": "gs://p-inflame",
    "GCP_CHAMPIONS": "gs://p-inflame-champions",
    "GCP_CLUSTER": "birds",
}
GITHUB = {
    "GITHUB_RUN_ID": "11",
    "GITHUB_RUN_ATTEMPT": "1",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "o/n",
}

# Buckets are folders below BUCKETS. What is left out by a pattern is left out as gcloud does it: by Python's `re`.
GCLOUD = f"""#!{sys.executable}
import os, pathlib, re, shutil, sys
words = sys.argv[1:]
if os.environ.get("OUT_OF_ORDER"):
    sys.exit("the bucket can't be reached")
def place(uri):
    return pathlib.Path(re.sub("^gs://", os.environ["BUCKETS"] + "/", uri))
if words[:3] == ["storage", "objects", "list"]:
    if place(words[3]).is_file():
        print(words[3])
elif words[:2] == ["storage", "rsync"]:
    source, target = map(place, words[-2:])
    left_out = re.compile(words[words.index("--exclude") + 1] if "--exclude" in words else "$^")
    assert source.is_dir(), source
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.is_file() and not left_out.match(str(name)):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
else:
    sys.exit(f"gcloud can't {{words}}")
"""
NOTES = """#!/usr/bin/env bash
printf '%s\\n' "$(basename "$0") $*" >> "$TOLD"
"""
# Launch shows what it would send; everything else of inflame is only noted.
INFLAME = f"""#!/usr/bin/env bash
printf '%s\\n' "inflame $*" >> "$TOLD"
if [ "$1" = launch ]; then exec {sys.executable} -m inflame "$@" --dry-run --json > request.json; fi
if [ "$1 $2" = "jobs fetch" ]; then echo '{{"run": "runs/r"}}'; fi
"""
REAL = f"""#!/usr/bin/env bash
exec {sys.executable} -m inflame "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """A machine that does steps of one job: a checkout, the programs on its PATH, and what a step hands on."""

    folder: Path
    buckets: Path

    def has(self, **programs: str) -> None:
        for name, text in programs.items():
            (self.folder / "bin" / name).write_text(text)
            (self.folder / "bin" / name).chmod(0o755)

    def does(self, workflow: str, job: str, step: str, **given: str) -> subprocess.CompletedProcess[str]:
        """Runs the step of that name; `given` are values that come from inputs, the matrix or other steps."""
        about = yaml.safe_load((WORKFLOWS / f"{workflow}.yml").read_text())["jobs"][job]
        (found,) = [one for one in about["steps"] if one.get("name") == step]
        said = {**about.get("env", {}), **found.get("env", {})}
        environment = {name: filled(str(value)) for name, value in said.items()}
        handed = {name: str(self.folder / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "TOLD")}
        keep = ("HOME", "INFLAME_HOME", "LANG", "PYTHONPATH", "http_proxy", "https_proxy")
        machine = {name: os.environ[name] for name in keep if name in os.environ}
        path = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "BUCKETS": str(self.buckets)}
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", found["run"]],
            cwd=self.checkout,
            env={**machine, **GITHUB, **path, **handed, **environment, **given},
            capture_output=True,
            text=True,
        )

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    def outputs(self) -> dict[str, str]:
        lines = (self.folder / "GITHUB_OUTPUT").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def told(self) -> list[str]:
        return (self.folder / "TOLD").read_text().splitlines()

    def git(self, *words: str) -> str:
        name = ("-c", "user.name=n", "-c", "user.email=n@example.org")
        done = subprocess.run(["git", *name, *words], cwd=self.checkout, capture_output=True, text=True, check=True)
        return done.stdout.strip()


def filled(value: str) -> str:
    """An expression of GitHub's with the variables of the repository; what else it names is given by the test."""
    found = re.fullmatch(r"\$\{\{ vars\.(\w+) \}\}", value)
    return VARIABLES[found[1]] if found else "" if "${{" in value else value


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    if shutil.which("jq") is None:
        pytest.skip("needs jq")
    for name in ("bin", "checkout", "buckets/p-inflame", "buckets/p-inflame-champions"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "checkout" / "deploy").symlink_to(ROOT / "deploy")
    made = Runner(folder=tmp_path, buckets=tmp_path / "buckets")
    made.has(gcloud=GCLOUD, inflame=REAL, gh=NOTES, dvc=NOTES)
    made.git("init", "--quiet", "--initial-branch", "main")
    return made


# --- what is trained -----------------------------------------------------------------------------


def test_what_a_push_changed_is_trained(runner: Runner) -> None:
    for name in ("versions/birds.dvc", "old.dvc", "same.dvc"):
        (runner.checkout / name).parent.mkdir(exist_ok=True)
        (runner.checkout / name).write_text("outs: []\n")
    runner.git("add", "versions", "old.dvc", "same.dvc")
    runner.git("commit", "--quiet", "--message", "as it was")
    before = runner.git("rev-parse", "HEAD")
    (runner.checkout / "versions" / "birds.dvc").write_text("outs: [{path: birds}]\n")
    runner.git("commit", "--quiet", "--all", "--message", "more birds")
    (runner.checkout / "old.dvc").unlink()
    (runner.checkout / "Zoo & more.dvc").write_text("outs: [{path: zoo}]\n")
    runner.git("add", "--all", "*.dvc")
    runner.git("commit", "--quiet", "--message", "a zoo")
    given = {"GITHUB_EVENT_NAME": "push", "GITHUB_SHA": runner.git("rev-parse", "HEAD"), "BEFORE": before}
    done = runner.does("train", "what", "Which data, which model", **given)
    assert done.returncode == 0, done.stderr
    assert json.loads(runner.outputs()["models"]) == [
        {"dvc": "Zoo & more.dvc", "data": "./Zoo & more", "name": "Zoo---more"},
        {"dvc": "versions/birds.dvc", "data": "./versions/birds", "name": "birds"},
    ]


def test_by_hand_it_is_what_was_said(runner: Runner) -> None:
    given = {"GITHUB_EVENT_NAME": "workflow_dispatch", "DATA": "gs://b/birds", "NAME": "birds"}
    done = runner.does("train", "what", "Which data, which model", **given)
    assert done.returncode == 0, done.stderr
    assert json.loads(runner.outputs()["models"]) == [{"dvc": "", "data": "gs://b/birds", "name": "birds"}]


def test_the_data_of_a_dvc_file_are_pulled(runner: Runner) -> None:
    (runner.checkout / "birds").mkdir()
    done = runner.does("train", "train", "Data", DVC="birds.dvc", DATA="./birds", NAME="birds", BACKEND="local")
    assert done.returncode == 0, done.stderr
    assert runner.told() == ["dvc pull birds.dvc"]
    assert runner.outputs()["data"] == "./birds"


def test_of_versions_it_is_the_newest_and_another_machine_gets_shards(runner: Runner, photo_set: Path) -> None:
    inflame = [sys.executable, "-m", "inflame", "version"]
    photos = shutil.copytree(photo_set, runner.checkout / "photos")
    for _ in range(2):
        subprocess.run([*inflame, str(photos), "--to", "versions/fruit"], cwd=runner.checkout, check=True)
        next(photos.rglob("*.jpg")).unlink()
    given = {"DVC": "versions/fruit.dvc", "DATA": "./versions/fruit", "NAME": "fruit", "GITHUB_SHA": "abc"}
    done = runner.does("train", "train", "Data", BACKEND="vertexai", RUNS=str(runner.buckets), **given)
    assert done.returncode == 0, done.stderr
    assert runner.outputs()["data"] == f"{runner.buckets}/data/fruit/abc"
    shards = json.loads((runner.buckets / "data" / "fruit" / "abc" / "shards.json").read_text())
    assert shards["items"] == sum(1 for _ in photo_set.rglob("*.jpg")) - 1


# --- how it is trained ---------------------------------------------------------------------------


def test_on_vertexai_the_workflow_says_all_that_is_needed(runner: Runner) -> None:
    """Its own line, with its own environment: nothing of gcloud's, no inflame.toml."""
    runner.has(inflame=INFLAME)
    given = {"DATA": "digits", "BACKEND": "vertexai", "MACHINE": "cpu-small", "BUDGET": "5m", "MONEY": "5"}
    done = runner.does("train", "train", "Rehearse here, train there, fetch", **given)
    assert done.returncode == 0, done.stderr
    request = json.loads((runner.checkout / "request.json").read_text())["request"]
    assert request["call"].startswith("POST https://europe-west1-aiplatform.googleapis.com/v1/projects/p/locations/")
    job = request["body"]["jobSpec"]
    assert job["serviceAccount"] == VARIABLES["GCP_JOB"]
    assert job["scheduling"]["strategy"] == "SPOT"
    assert request["output"].startswith("gs://p-inflame/runs/")
    assert "--no-rehearsal" not in (WORKFLOWS / "train.yml").read_text()  # launch rehearses what it sends elsewhere


def test_here_it_is_rehearsed_too(runner: Runner) -> None:
    runner.has(inflame=INFLAME)
    given = {"DATA": "./birds", "BACKEND": "local", "BUDGET": "5m"}
    (runner.checkout / "birds").mkdir()
    done = runner.does("train", "train", "Rehearse here, train there, fetch", **given)
    assert done.returncode == 0, done.stderr
    assert runner.told()[:2] == [
        "inflame rehearse ./birds --on local in=5m", "inflame launch ./birds --on local in=5m",
    ]  # fmt: skip


# --- is it better --------------------------------------------------------------------------------

Made = Callable[..., Path]
COMPARED = "Is it better than the champion?"


@pytest.fixture
def made(runner: Runner) -> Made:
    """A finished run of 300 test items, so many of them wrong, fetched into the checkout."""

    def make(name: str, wrong: int, settings: dict[str, Any] | None = None, page: int = 1000) -> Path:
        folder = runner.checkout / "fetched" / name
        (folder / "bundle").mkdir(parents=True)
        (folder / "best").mkdir()
        (folder / "best" / "checkpoint.safetensors").write_text("large")
        labels = [place % 3 for place in range(300)]
        said = [(label + (place < wrong)) % 3 for place, label in enumerate(labels)]
        pq.write_table(_answers(labels, said), folder / "predictions.parquet")
        right = (300 - wrong) / 300
        matrix = [
            [sum(1 for pair in zip(labels, said, strict=True) if pair == (a, b)) for b in range(3)] for a in range(3)
        ]
        files: dict[str, Any] = {
            "config.json": {"model": "tiny", "seed": 0, "hyperparam": settings or {}},
            "dataset.json": {"version": "d" * 64, "items": 900, "classes": ["a", "b", "c"]},
            "report.json": {"confusion": {"classes": ["a", "b", "c"], "matrix": matrix}, "confusions": []},
            "status.json": {
                "state": "done", "model": "tiny", "dataset": "zoo", "seed": 0, "code": "abc1234", "how": "a small net",
                "test": {"accuracy": right, "low": right - 0.02, "high": right + 0.02, "n": 300},
                "data": {"version": "d" * 64, "content": "c" * 16, "test": "items", "val": "items"},
            },
        }  # fmt: skip
        for file, value in files.items():
            (folder / file).write_text(json.dumps(value))
        for file in seal.FILES:
            (folder / "bundle" / file).write_text(f"{file} of {name}")
        seal.seal(folder / "bundle", {})
        (folder / "report.html").write_text("x" * page)
        (runner.checkout / "fetched.json").write_text(json.dumps({"run": str(folder)}))
        shutil.rmtree(runner.checkout / "champions", ignore_errors=True)  # another machine, another time
        shutil.rmtree(runner.checkout / "proposal", ignore_errors=True)
        return folder

    return make


def _answers(labels: Sequence[int], said: Sequence[int]) -> pa.Table:
    names = ("a", "b", "c")
    return pa.table(
        {
            "id": [f"{place:032x}" for place in range(len(labels))],
            "uri": [f"{place}.jpg" for place in range(len(labels))],
            "split": ["test"] * len(labels),
            "label": [names[label] for label in labels],
            "predicted": [names[label] for label in said],
            "correct": [a == b for a, b in zip(labels, said, strict=True)],
            "suspect": [0.8 if a == b else 0.1 for a, b in zip(labels, said, strict=True)],
            "probabilities": [[0.8 if place == label else 0.1 for place in range(3)] for label in said],
        }
    )


def merged(runner: Runner) -> None:
    """What the pull request brings comes to main."""
    shutil.copytree(runner.checkout / "proposal" / "models", runner.checkout / "models", dirs_exist_ok=True)


def champions(runner: Runner) -> list[dict[str, Any]]:
    log = runner.buckets / "p-inflame-champions" / "zoo" / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_the_champion_is_replaced_by_what_is_deployed_and_not_before(runner: Runner, made: Made) -> None:
    made("first", wrong=60)
    done = runner.does("train", "train", COMPARED, NAME="zoo")
    assert done.returncode == 0, done.stderr
    assert champions(runner) == []
    merged(runner)
    done = runner.does("deploy", "champion", "It is the champion", NAME="zoo", GITHUB_SHA="a1")
    assert done.returncode == 0, done.stderr
    assert [(one["action"], one["run"]) for one in champions(runner)] == [("promote", "first")]

    made("second", wrong=10, settings={"learning_rate": 0.1})
    done = runner.does("train", "train", COMPARED, NAME="zoo")
    assert done.returncode == 0, done.stderr
    assert len(champions(runner)) == 1
    about = json.loads((runner.checkout / "proposal" / "models" / "zoo.json").read_text())
    assert about["run"] == "gs://p-inflame/candidates/zoo/11-1/second"
    assert about["bundle"] == f"{about['run']}/bundle"
    kept = runner.buckets / "p-inflame" / "candidates" / "zoo" / "11-1" / "second"
    assert (kept / "bundle" / "bundle.json").is_file()
    assert not (kept / "best").exists()  # checkpoints are nothing to deploy

    text = (runner.checkout / "proposal" / "body.md").read_text()
    assert "| champion | first | 80.0 % (78.0 to 82.0) | 300 |" in text
    assert "| new | second | 96.7 % (94.7 to 98.7) | 300 |" in text
    assert re.search(r"On the same test items: \+16\.7 points \(\+12\.\d to \+2\d\.\d\), p = ", text)
    assert "| hyperparam.learning_rate | – | 0.1 |" in text
    assert "| **a** | 96 | 4 | · |" in text
    assert "`models/zoo.html` of this branch" in text
    assert (runner.folder / "GITHUB_STEP_SUMMARY").read_text().endswith(text)

    merged(runner)
    done = runner.does("deploy", "champion", "It is the champion", NAME="zoo", GITHUB_SHA="b2")
    assert done.returncode == 0, done.stderr
    last = champions(runner)[-1]
    assert (last["action"], last["run"], last["version"]) == ("promote", "second", 2)
    assert last["why"].endswith("deployed as b2")


def test_what_is_no_better_proposes_nothing(runner: Runner, made: Made) -> None:
    made("first", wrong=10)
    assert runner.does("train", "train", COMPARED, NAME="zoo").returncode == 0
    merged(runner)
    assert runner.does("deploy", "champion", "It is the champion", NAME="zoo", GITHUB_SHA="a1").returncode == 0
    made("second", wrong=40)
    done = runner.does("train", "train", COMPARED, NAME="zoo")
    assert done.returncode == 0, done.stderr
    assert "doesn't become the champion" in (runner.folder / "GITHUB_STEP_SUMMARY").read_text()
    assert not (runner.checkout / "proposal").exists()
    assert len(champions(runner)) == 1
    assert (runner.checkout / "report.html").is_file()


def test_champions_that_cant_be_read_are_no_reason_to_take_it_for_the_first(runner: Runner, made: Made) -> None:
    made("first", wrong=10)
    assert runner.does("train", "train", COMPARED, NAME="zoo", OUT_OF_ORDER="1").returncode != 0
    log = runner.buckets / "p-inflame-champions" / "zoo" / "log.jsonl"
    log.parent.mkdir()
    log.write_text('{"action": "promote"}\n')
    assert runner.does("train", "train", COMPARED, NAME="zoo").returncode != 0
    assert not (runner.checkout / "proposal").exists()


def test_a_large_report_stays_out_of_the_repository(runner: Runner, made: Made) -> None:
    made("first", wrong=10, page=2_000_000)
    assert runner.does("train", "train", COMPARED, NAME="zoo").returncode == 0
    assert [path.name for path in (runner.checkout / "proposal" / "models").iterdir()] == ["zoo.json"]
    assert "an artifact of the workflow" in (runner.checkout / "proposal" / "body.md").read_text()


@pytest.mark.slow
def test_here_from_data_to_champion(runner: Runner) -> None:
    """As on the machine that GitHub lends: rehearsed, sent to itself, waited for, fetched, compared, deployed."""
    given = {"DATA": "digits", "NAME": "zoo", "BACKEND": "local", "BUDGET": "20s", "DVC": ""}
    done = runner.does("train", "train", "Data", **given)
    assert runner.outputs()["data"] == "digits", done.stderr
    done = runner.does("train", "train", "Rehearse here, train there, fetch", **given)
    assert done.returncode == 0, done.stderr
    assert "killed after a checkpoint, it went on" in done.stdout + done.stderr
    done = runner.does("train", "train", COMPARED, NAME="zoo")
    assert done.returncode == 0, done.stderr
    text = (runner.checkout / "proposal" / "body.md").read_text()
    assert re.search(r"\| new \| \S+ \| 9\d\.\d % \(\d\d\.\d to \d\d\.\d\) \| 275 \|", text), text
    assert "| **9** |" in text
    assert (runner.checkout / "proposal" / "models" / "zoo.html").is_file()
    merged(runner)
    done = runner.does("deploy", "champion", "It is the champion", NAME="zoo", GITHUB_SHA="a1")
    assert done.returncode == 0, done.stderr
    assert [one["action"] for one in champions(runner)] == ["promote"]


# --- proposing and deploying ---------------------------------------------------------------------


def test_the_pull_request_has_the_report(runner: Runner) -> None:
    subprocess.run(["git", "init", "--quiet", "--bare", str(runner.folder / "far")], check=True)
    runner.git("remote", "add", "origin", str(runner.folder / "far"))
    runner.git("commit", "--quiet", "--allow-empty", "--message", "begin")
    models = runner.checkout / "proposal" / "models"
    models.mkdir(parents=True)
    (models / "zoo.json").write_text("{}")
    (models / "zoo.html").write_text("<p>")
    (models.parent / "body.md").write_text("96.7 %\n")
    done = runner.does("train", "propose", "Propose it", NAME="zoo")
    assert done.returncode == 0, done.stderr
    assert runner.told()[-1].startswith(
        "gh pr create --head model-zoo-11-1 --title Model zoo: a better one --body-file"
    )
    listed = runner.git("ls-tree", "-r", "--name-only", "origin/model-zoo-11-1").splitlines()
    assert [name for name in listed if name.startswith("models/")] == ["models/zoo.html", "models/zoo.json"]
    assert not [name for name in listed if name.startswith("proposal/")]
    assert "actions/runs/11" in (models.parent / "body.md").read_text()


def test_where_nothing_is_better_nothing_is_proposed(runner: Runner) -> None:
    done = runner.does("train", "propose", "Propose it", NAME="zoo")
    assert (done.returncode, done.stdout) == (0, "nothing is better\n")


def test_the_website_has_one_model_at_a_time(runner: Runner) -> None:
    models = runner.checkout / "models"
    models.mkdir()
    (models / "owls.json").write_text("{}")
    runner.git("add", "models")
    runner.git("commit", "--quiet", "--message", "owls")
    before = runner.git("rev-parse", "HEAD")
    (models / "birds.json").write_text("{}")
    (models / "birds.html").write_text("<p>")
    runner.git("add", "models")
    runner.git("commit", "--quiet", "--message", "birds")
    given = {"BEFORE": before, "GITHUB_SHA": runner.git("rev-parse", "HEAD"), "GIVEN": ""}
    assert runner.does("deploy", "image", "Which model", **given).returncode == 0
    assert runner.outputs()["name"] == "birds"
    (models / "owls.json").write_text("{ }")
    runner.git("commit", "--quiet", "--all", "--message", "owls too")
    given["GITHUB_SHA"] = runner.git("rev-parse", "HEAD")
    done = runner.does("deploy", "image", "Which model", **given)
    assert done.returncode == 1
    assert "Run deploy by hand" in done.stdout
    assert runner.does("deploy", "image", "Which model", **{**given, "GIVEN": "owls"}).returncode == 0
    assert runner.outputs()["name"] == "owls"


def test_kubectl_knows_the_cluster_by_what_gcloud_says(runner: Runner) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl")
    about = {"endpoint": "10.0.0.1", "masterAuth": {"clusterCaCertificate": "Y2VydGlmaWNhdGU="}}
    told = f"case \"$*\" in auth*) echo token-of-now ;; *) echo '{json.dumps(about)}' ;; esac\n"
    runner.has(gcloud=f"#!/usr/bin/env bash\n{told}")
    given = {"KUBECONFIG": str(runner.folder / "kubeconfig")}
    done = runner.does("deploy", "kubernetes", "Log in to the cluster", **given)
    assert done.returncode == 0, done.stderr
    made = yaml.safe_load((runner.folder / "kubeconfig").read_text())
    assert made["current-context"] == "gke"
    assert made["clusters"][0]["cluster"]["server"] == "https://10.0.0.1"
    assert made["clusters"][0]["cluster"]["certificate-authority-data"] == "Y2VydGlmaWNhdGU="
    assert made["users"][0]["user"] == {"token": "token-of-now"}
