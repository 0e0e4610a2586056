from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflame.cli.main import main
from inflame.errors import UserError
from inflame.factory import trials
from inflame.factory import why as reasons
from inflame.factory.trials import Trial


def sweep(folder: Path, found: list[Trial], **given: Any) -> trials.Sweep:
    """A sweep folder with these trials in its journal, as the driver writes them."""
    folder.mkdir(parents=True)
    told = {"name": folder.name, "folder": "", "model": "m", "started": 1.0, **given}
    (folder / "sweep.json").write_text(json.dumps(told))
    lines = [{"op_code": 4, "user_attrs": {trials.ATTRIBUTE: trial.to_json()}} for trial in found]
    (folder / "journal.log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return trials.find(str(folder))


def tried(count: int, seed: int = 0, noise: float = 0.01) -> list[Trial]:
    """The rate matters most (best near 0.01), the net a little, the third thing not at all."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        rate, net = float(10 ** rng.uniform(-4, 0)), str(rng.choice(["small", "large"]))
        value = 0.9 - 0.05 * (np.log10(rate) + 2) ** 2 + (0.02 if net == "large" else 0.0) + rng.normal(0, noise)
        settings = {"hyperparam.rate": rate, "net": net, "hyperparam.idle": float(rng.random()), "fixed": 3}
        found.append(Trial(number=number, settings=settings, state="done", values=(float(value),), run=f"r.{number}"))
    return found


def test_what_matters_is_found_in_its_order(tmp_path: Path) -> None:
    found = reasons.why(sweep(tmp_path / "s-001", tried(80)), tried(80))
    assert [param.name for param in found.params][:2] == ["hyperparam.rate", "net"]
    rate, net, idle = found.params
    assert found.predicted is not None
    assert found.predicted > 0.7
    assert rate.importance is not None
    assert rate.importance > 0.8
    assert idle.importance is not None
    assert idle.error is not None
    assert abs(idle.importance) < max(0.05, 3 * idle.error)
    assert (rate.kind, rate.log, net.kind, net.choices) == ("number", True, "choice", ("large", "small"))
    low, _, high, *_ = rate.best.split()
    assert 0.001 < float(low) < 0.01 < float(high) < 0.1
    assert net.best.startswith("large in")


def test_of_noise_nothing_is_claimed(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    noise = [
        Trial(number=n, settings={"a": float(rng.random()), "b": int(rng.integers(5))}, state="done",
              values=(float(rng.random()),))
        for n in range(40)
    ]  # fmt: skip
    found = reasons.why(sweep(tmp_path / "s-001", noise), noise)
    assert found.predicted is None
    assert all(param.importance is None for param in found.params)
    assert "none is known to matter" in found.note


def test_few_alike_and_failed_trials(tmp_path: Path) -> None:
    made = sweep(tmp_path / "s-001", [])
    found = reasons.why(made, tried(5))
    assert found.params[0].importance is None
    assert found.note == "5 trials have a value; from 8 on, importances are told"
    alike = [Trial(number=n, settings={"a": n}, state="done", values=(0.5,)) for n in range(10)]
    assert reasons.why(made, alike).predicted is None
    failed = [*tried(20), Trial(number=20, settings={"hyperparam.rate": 9.0}, state="failed", reason="it diverged")]
    found = reasons.why(made, failed)
    assert (found.scored, len(found.points), found.points[-1]["reason"]) == (20, 21, "it diverged")
    stopped = [Trial.from_json({**trial.to_json(), "state": "stopped", "budget": 1 + n % 2, "values": (0.1 * (n % 2),)})
               for n, trial in enumerate(tried(30))]  # fmt: skip
    found = reasons.why(made, stopped)
    assert found.params[0].name == reasons.BUDGET
    assert "30 of them were stopped early" in found.note
    assert reasons.why(made, []).params == ()


def test_other_objectives(tmp_path: Path) -> None:
    two = [Trial.from_json({**trial.to_json(), "values": (trial.values[0], 100 * trial.settings["hyperparam.idle"])})
           for trial in tried(60)]  # fmt: skip
    made = sweep(tmp_path / "s-001", two, objectives=["val.accuracy", "latency"], directions=["maximize", "minimize"])
    found = reasons.why(made, two, "latency")
    assert found.params[0].name == "hyperparam.idle"
    low, _, high, *_ = found.params[0].best.split()
    assert float(low) < float(high) < 0.4, "less is better"
    with pytest.raises(UserError, match='Did you mean "latency"'):
        reasons.why(made, two, "latenci")


def test_the_verb_and_its_page(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tried(30)
    made.append(Trial(number=30, settings={"net": "</script><b>"}, state="failed", reason="out of memory"))
    folder = sweep(home / "sweeps" / "zoo-001", made).path
    assert main(["why", "zoo"]) == 0
    said = capsys.readouterr().out
    assert "zoo-001: 30 of 31 trials have val.accuracy (maximize)" in said
    assert "the settings predict" in said
    text = (folder / "why.html").read_text()
    assert text.count("</script>") == 1, "what a setting says can't end the script"
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert main(["why", "zoo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["params"][0]["name"] == "hyperparam.rate"
    assert main(["why", "zo"]) == 2
    assert "There is no sweep" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_in_a_browser(home: Path) -> None:
    """Lines are drawn; dragging along an axis keeps only those that pass there, a click lets all through again."""
    sync_api = pytest.importorskip("playwright.sync_api")
    made = sweep(home / "sweeps" / "zoo-001", tried(40))
    page_file = home / "why.html"
    page_file.write_text(reasons.html(reasons.why(made, trials.trials(made))))
    with sync_api.sync_playwright() as tool:
        try:
            browser = tool.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        except sync_api.Error:
            pytest.skip("needs chromium")
        page, errors = browser.new_page(viewport={"width": 1200, "height": 1000}), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(page_file.as_uri())
        assert page.locator("polyline.trial").count() == 40
        box = page.locator("rect.grab").last.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + 10
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x, y + box["height"] * 0.2, steps=4)
        page.mouse.up()
        kept = 40 - page.locator("polyline.trial.off").count()
        assert 0 < kept < 40
        assert page.locator("#kept").inner_text() == f"{kept} of 40 trials"
        assert page.locator("#rows tr").count() == kept
        page.click("#clear")
        assert page.locator("polyline.trial.off").count() == 0
        browser.close()
        assert errors == []
