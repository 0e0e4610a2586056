"""The notebooks run from top to bottom on what needs no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = {path.stem: path for path in (Path(__file__).parents[2] / "notebooks").glob("*.ipynb")}

_RUN = """
import json, sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def executed(notebook: str | Path, folder: Path) -> list[dict[str, Any]]:
    """All that the cells of that notebook put out: a name of ours, or a file, in whose folder it is run."""
    path = NOTEBOOKS[notebook] if isinstance(notebook, str) else notebook
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _RUN, str(path), str(folder / "done.ipynb")],
        cwd=None if isinstance(notebook, str) else path.parent,
        env={**os.environ, "JUPYTER_RUNTIME_DIR": str(folder), "IPYTHONDIR": str(folder / "ipython")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    cells = json.loads((folder / "done.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert not any(output["output_type"] == "error" for output in outputs)
    return outputs


def said(outputs: list[dict[str, Any]], kind: str = "text/plain") -> str:
    """All of one kind, one after the other."""
    parts = [output.get("text", output.get("data", {}).get(kind, "")) for output in outputs]
    return "\n".join("".join(part) for part in parts)


@pytest.mark.timeout(180)
def test_the_notebook_runs_on_the_digits(tmp_path: Path) -> None:
    outputs = executed("eda", tmp_path)
    assert "1,797 items" in said(outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_model_is_looked_at(tmp_path: Path) -> None:
    outputs = executed("model_testing", tmp_path)
    assert "test accuracy 0.9" in said(outputs)
    html = said(outputs, "text/html")
    assert "Confusion matrix" in html
    assert html.count("data:image/png") > 10


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_job_is_sent(tmp_path: Path) -> None:
    text = said(executed("cloud", tmp_path))
    assert "n1-standard" in text  # what Vertex AI would be told
    assert "'done'" in text
    assert "mnist of digits: test accuracy" in text


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_many_runs(tmp_path: Path) -> None:
    text = said(executed("factory", tmp_path))
    assert "mnist-digits-001.0000" in text
    assert "test accuracy 0.9" in text


@pytest.mark.parametrize("name", sorted(NOTEBOOKS))
def test_a_notebook_is_kept_without_outputs(name: str) -> None:
    cells = json.loads(NOTEBOOKS[name].read_text())["cells"]
    assert all(not cell.get("outputs") for cell in cells)
    assert set(NOTEBOOKS) == {"cloud", "eda", "factory", "model_testing"}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_project_of_ones_own_does_what_it_says(tmp_path: Path) -> None:
    """`inflame new`: its tests pass, its notebook runs, and linters have nothing to say of its image and workflow."""
    made, beside = tmp_path / "my-digits", Path(sys.executable).parent

    def done(*words: str | Path, cwd: Path = made) -> None:
        ended = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]

    done(beside / "inflame", "new", "my-digits", "--like", "mnist", cwd=tmp_path)
    done(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert "accuracy" in said(executed(made / "look.ipynb", tmp_path), "text/html")
    assert (made / "run" / "bundle" / "model.onnx").is_file()
    workflow = made / ".github" / "workflows" / "ci.yml"
    linters: dict[str, list[str | Path]] = {
        "hadolint": [made / "Dockerfile"],
        "zizmor": ["--offline", "--quiet", workflow],
        "check-jsonschema": ["--builtin-schema", "vendor.github-workflows", workflow],
    }
    for name, words in linters.items():
        if (beside / name).exists():
            done(beside / name, *words)
