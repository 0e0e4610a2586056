"""What we send, read by the providers' own SDKs: a name that they don't know, or a value of another kind, is a failure.

The SDKs are large, so they have environments of their own: `python -m venv .peers/vertexai`, and there
`pip install google-cloud-aiplatform`; `.peers/azureml` with `azure-ai-ml>=1.30`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
REQUESTS = ROOT / "tests" / "golden" / "requests"

VERTEX = """
import json, sys
from google.cloud.aiplatform_v1.types import CustomJob
print(CustomJob.to_json(CustomJob.from_json(sys.stdin.read(), ignore_unknown_fields=False)))
"""
AZURE = """
import json, sys
from azure.ai.ml._restclient.arm_ml_service import models
from azure.ai.ml._restclient.arm_ml_service._utils.model_base import Model, _deserialize

kinds = {"jobs": models.JobBase, "computes": models.ComputeResource, "environments": models.EnvironmentVersion}

def unknown(value, where):
    if isinstance(value, Model):
        fields = {field._rest_name: name for name, field in value._attr_to_rest_field.items()}
        for key in value:
            if key in fields:
                yield from unknown(getattr(value, fields[key]), f"{where}.{key}")
            else:
                yield f"{where}.{key} of {type(value).__name__}"
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from unknown(one, f"{where}.{key}")

told = json.load(sys.stdin)
found = [bad for path, body in told.items() for bad in unknown(_deserialize(kinds[path.split("/")[0]], body), path)]
print(json.dumps({"unknown": found}))
"""
JUDGES = {"vertexai": VERTEX, "azureml": AZURE}


def judged(place: str, told: dict[str, Any]) -> dict[str, Any]:
    """What the place's SDK has understood."""
    python = ROOT / ".peers" / place / "bin" / "python"
    if not python.exists():
        pytest.skip(f"needs {place}'s SDK in .peers/{place}")
    done = subprocess.run(
        [str(python), "-c", JUDGES[place]], input=json.dumps(told), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def lacking(told: Any, found: Any, where: str = "") -> list[str]:
    """What was told and not understood. Numbers may have become texts, and words their numbers in a list."""
    if isinstance(told, dict):
        gone = [f"{where}.{key}" for key in told if not isinstance(found, dict) or key not in found]
        return gone + [
            bad
            for key in told
            if f"{where}.{key}" not in gone
            for bad in lacking(told[key], found[key], f"{where}.{key}")
        ]
    if isinstance(told, list):
        pairs = zip(told, found, strict=True)
        return [bad for number, (one, two) in enumerate(pairs) for bad in lacking(one, two, f"{where}[{number}]")]
    same = str(told) == str(found) or isinstance(found, int)
    return [] if same else [f"{where}: {told!r} became {found!r}"]


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["plain", "spot"])
def test_vertexai_reads_our_job(kind: str) -> None:
    body = json.loads((REQUESTS / f"vertexai-{kind}.json").read_text())["body"]
    assert lacking(body, judged("vertexai", body)) == []
    body["jobSpec"]["workerPoolSpecs"][0]["replicaCounts"] = 1
    with pytest.raises(AssertionError, match="replicaCounts"):
        judged("vertexai", body)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["plain", "spot"])
def test_azureml_reads_our_bodies(kind: str) -> None:
    puts = json.loads((REQUESTS / f"azureml-{kind}.json").read_text())["put"]
    assert judged("azureml", puts) == {"unknown": []}
    job = next(path for path in puts if path.startswith("jobs/"))
    puts[job]["properties"]["computeID"] = "x"
    assert judged("azureml", puts) == {"unknown": [f"{job}.properties.computeID of CommandJob"]}
