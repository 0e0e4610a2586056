"""What a sweep costs and what it survives: `python -m benchmarks.sweeps [overhead|kills|probe|search] …`.

overhead: trials of one second on 2 workers, ours beside Ray Tune and a Hydra multirun (in environments of their own).
kills:    100 short trials while driver, zygote and workers are killed at random: same table as undisturbed?
probe:    trials that differ only above cached features, a second.
search:   best validation accuracy at a fifth of the budget of random search.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

APP = """import sys
from pathlib import Path

from inflame.model.engine.switchboard import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent))
"""
# A linear model of the digits of scikit-learn, trained for so many epochs, each of which takes `wait` seconds longer.
# It goes on where it was killed, and says in a file of its own when it has come to its end.
TRAIN = """import hashlib, os, time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from inflame.runs import Run


def train(settings):
    h = settings.hyperparam
    identity = hashlib.sha256(settings.identity().encode()).hexdigest()
    with Run.begin(settings, identity, settings.io.training_input) as run:
        done = len(run.metrics())
        x, y = load_digits(return_X_y=True)
        x = (x / 16) ** h.power
        order = np.random.default_rng(settings.seed).permutation(len(x))
        fit, val = order[:1000], order[1000:1400]
        for epoch in range(h.num_epochs):
            rows = fit[: 1000 * (epoch + 1) // h.num_epochs]
            a, b = x[rows], np.eye(10)[y[rows]]
            weights = np.linalg.solve(a.T @ a + h.strength * np.eye(64), a.T @ b)
            right = float(((x[val] @ weights).argmax(1) == y[val]).mean())
            if epoch >= done:
                time.sleep(h.wait)
                run.metric(epoch=epoch + 1, seconds=run.seconds, val_accuracy=right)
                run.flush()
        run.status(val={"accuracy": right, "low": right, "high": right, "n": len(val)})
    with (Path(os.environ["INFLAME_HOME"]) / "ended.log").open("a") as file:
        file.write(f"{os.environ['INFLAME_TRIAL']}\\n")
    return {"run": str(run.path), "prediction": {"label": "1", "probability": right}}
"""
CONFIG = """[hyperparam]
strength = 1.0
power = 1.0
num_epochs = 4
wait = 0.05
[io]
training_input = "digits"
"""
SPACE = ("hyperparam.strength=range(1e-3,1e6,log)", "hyperparam.power=interval(0.3,3)")


def folder(place: Path, train: str = TRAIN, config: str = CONFIG) -> Path:
    """A model folder at `place`."""
    place.mkdir(parents=True, exist_ok=True)
    for name, text in (("app.py", APP), ("train.py", train), ("model-config.toml", config)):
        (place / name).write_text(text)
    return place


def start(home: Path, *words: str) -> subprocess.Popen[str]:
    """`inflame sweep …`, with this home."""
    return subprocess.Popen(
        [sys.executable, "-m", "inflame", "sweep", *words, "--json"],
        env={**os.environ, "INFLAME_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


# --- kills ---------------------------------------------------------------------------------------


def kills(count: int, trials: int, seed: int = 0, wait: float = 0.05) -> dict[str, object]:
    """The same sweep undisturbed and with `count` SIGKILLs of driver, zygote and workers."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        model = folder(place / "linear")
        words = (str(model), *SPACE, f"hyperparam.wait={wait}", "--trials", str(trials), "--sampler", "random")
        words = (*words, "--no-stopping", "--workers", "2")
        quiet = start(place / "quiet", *words).communicate()[0]
        began = time.monotonic()
        told, starts = _disturbed(place / "loud", words, count, random.Random(seed))
        ended = (place / "loud" / "ended.log").read_text().split()
        expected, found = _table(quiet), _table(told)
        for one, other in zip(expected, json.loads(told)["trials"], strict=False):
            if one[2:] != (other["state"], tuple(other["values"])):
                print(f"differs: {json.loads(quiet)['trials'][one[0]]} {other}", file=sys.stderr)
        return {
            "kills": count,
            "trials": trials,
            "starts of the driver": starts,
            "lost": trials - len({one[0] for one in found if one[2] == "done"}),
            "repeated": len(ended) - len(set(ended)),
            "same table": expected == found and len(found) == trials,
            "seconds": round(time.monotonic() - began, 1),
        }


def _disturbed(home: Path, words: tuple[str, ...], count: int, dice: random.Random) -> tuple[str, int]:
    starts, killed = 1, 0
    driver = start(home, *words)
    while True:
        try:
            told = driver.communicate(timeout=dice.uniform(0.1, 1.2) if killed < count else None)[0]
        except subprocess.TimeoutExpired:
            victim = _victim(home, driver.pid, dice)
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                killed += 1
            if victim == driver.pid:
                driver.wait()
                starts, driver = starts + 1, start(home, *words)
            continue
        if killed < count:
            raise SystemExit(f"the sweep was over after {killed} kills: take more trials or longer ones")
        return told, starts


def _victim(home: Path, driver: int, dice: random.Random) -> int:
    """A worker, the zygote or the driver, by its process id."""
    workers = []
    for path in (home / "jobs").glob("*/lock"):
        with suppress(OSError, ValueError, KeyError):
            pid = json.loads(path.read_text())["pid"]
            if not (path.parent / "code").exists() and Path(f"/proc/{pid}").exists():
                workers.append(pid)
    children = Path(f"/proc/{driver}/task/{driver}/children").read_text().split()
    return dice.choice([driver, *map(int, children[:1]), *workers, *workers])


def _table(told: str) -> list[tuple[object, ...]]:
    found = json.loads(told)["trials"]
    return [(one["number"], json.dumps(one["settings"]), one["state"], tuple(one["values"])) for one in found]


# --- overhead ------------------------------------------------------------------------------------

SLEEP = """import hashlib, time

from inflame.runs import Run


def train(settings):
    h = settings.hyperparam
    identity = hashlib.sha256(settings.identity().encode()).hexdigest()
    with Run.begin(settings, identity, settings.io.training_input) as run:
        time.sleep(1)
        run.status(val={"accuracy": h.x, "low": h.x, "high": h.x, "n": 1})
    return {"run": str(run.path), "prediction": {"label": "1", "probability": h.x}}
"""
SLEEP_CONFIG = """[hyperparam]
x = 0.5
[io]
training_input = "digits"
"""
RAY = """import sys, time
import ray
from ray import tune

def trial(config):
    time.sleep(1)
    return {"accuracy": config["x"]}

count, place = int(sys.argv[1]), sys.argv[2]
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
tuner = tune.Tuner(
    tune.with_resources(trial, {"cpu": 1}),
    param_space={"x": tune.uniform(0, 1)},
    tune_config=tune.TuneConfig(num_samples=count, max_concurrent_trials=2),
    run_config=tune.RunConfig(storage_path=place, verbose=0),
)
assert len(tuner.fit()) == count
"""
HYDRA = """import time
import hydra

@hydra.main(version_base=None)
def trial(config):
    time.sleep(1)
    return config.x

if __name__ == "__main__":
    trial()
"""


def overhead(count: int, who: list[str]) -> dict[str, object]:
    """Wall seconds of `count` trials of one second on two workers, and what that is above the ideal."""
    found: dict[str, object] = {"trials": count, "ideal": count / 2}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for name in who:
            began = time.monotonic()
            _peer(name, place, count)
            wall = time.monotonic() - began
            found[name] = {"wall": round(wall, 2), "overhead %": round(100 * (wall / (count / 2) - 1), 2)}
    return found


def _peer(name: str, place: Path, count: int) -> None:
    if name == "inflame":
        model = folder(place / "sleep", SLEEP, SLEEP_CONFIG)
        words = ("hyperparam.x=interval(0,1)", "--trials", str(count), "--sampler", "random", "--workers", "2")
        told = json.loads(start(place / "home", str(model), *words).communicate()[0])
        assert sum(one["state"] == "done" for one in told["trials"]) == count
        return
    program = place / f"peer_{name}.py"
    program.write_text({"ray": RAY, "hydra": HYDRA}[name])
    peer = Path(".peers") / name / "bin" / "python"
    python = str(peer.absolute()) if peer.exists() else sys.executable
    words = [str(count), str(place / "ray")]
    if name == "hydra":
        values = ",".join(f"{number / count:.4f}" for number in range(count))
        words = [
            "-m",
            f"+x={values}",
            "hydra/launcher=joblib",
            "hydra.launcher.n_jobs=2",
            f"hydra.sweep.dir={place}/hydra",
        ]
    with (place / f"{name}.log").open("w") as log:
        done = subprocess.run([python, str(program), *words], stdout=log, stderr=log, cwd=place, check=False)
    if done.returncode:
        raise SystemExit((place / f"{name}.log").read_text()[-2000:])


# --- probe ---------------------------------------------------------------------------------------

PROBE = """import hashlib, os
from pathlib import Path

import numpy as np

from inflame.runs import Run

FILE = Path(__file__).parent / "features.npz"
STORED = np.load(FILE)  # read once, by the process that trials are forked from: its memory is theirs
FEATURES, LABELS = STORED["features"], STORED["labels"]


def train(settings):
    h = settings.hyperparam
    identity = hashlib.sha256(settings.identity().encode()).hexdigest()
    with Run.begin(settings, identity, settings.io.training_input) as run:
        order = np.random.default_rng(settings.seed).permutation(len(LABELS))
        fit, val = order[:800], order[800:]
        x = FEATURES[fit] ** h.power
        penalty = h.strength * np.eye(x.shape[1], dtype=x.dtype)
        weights = np.linalg.solve(x.T @ x + penalty, x.T @ np.eye(10)[LABELS[fit]])
        right = float(((FEATURES[val] ** h.power @ weights).argmax(1) == LABELS[val]).mean())
        run.status(val={"accuracy": right, "low": right, "high": right, "n": len(val)})
    return {"run": str(run.path), "prediction": {"label": "1", "probability": right}}
"""
PROBE_CONFIG = """[hyperparam]
strength = 1.0
power = 1.0
[io]
training_input = "digits"
"""


def probe(count: int) -> dict[str, object]:
    """Trials a second of a linear probe on 1,000 digits x 576 random features (half waves of their pixels)."""
    import numpy as np
    from sklearn.datasets import load_digits

    with tempfile.TemporaryDirectory() as temporary:
        model = folder(Path(temporary) / "probe", PROBE, PROBE_CONFIG)
        x, y = load_digits(return_X_y=True)
        dice = np.random.default_rng(0)
        features = np.maximum(x[:1000] / 16 @ dice.normal(size=(64, 576)) / 4 + dice.normal(size=576) / 4, 0)
        np.savez(model / "features.npz", features=features.astype(np.float32), labels=y[:1000])
        words = ("hyperparam.strength=range(1e-4,1e3,log)", "hyperparam.power=interval(0.3,2)", "--trials", str(count))
        began = time.monotonic()
        told = json.loads(start(Path(temporary) / "home", str(model), *words, "--sampler", "random").communicate()[0])
        wall = time.monotonic() - began
        stamps = sorted(path.stat().st_mtime for path in (Path(temporary) / "home" / "jobs").glob("*/code"))
        assert all(one["state"] == "done" for one in told["trials"])
        steady = (len(stamps) - 1) / (stamps[-1] - stamps[0])
        best = round(told["best"][0]["values"][0], 4)
        speed = {"trials/s": round(steady, 1), "with start": round(count / wall, 1)}
        return {"trials": count, "wall": round(wall, 2), **speed, "best": best}


# --- search --------------------------------------------------------------------------------------

NET = (
    "io.training_input=fashion-mnist",
    "in=20s",
    "hyperparam.learning_rate=range(1e-4,1,log)",
    "hyperparam.batch_size=range(16,512,log)",
    "hyperparam.weight_decay=range(1e-3,1,log)",
    "hyperparam.label_smoothing=interval(0,0.3)",
)


def search(seed: int, seconds: float, side: str) -> dict[str, object]:
    """The best validation accuracy that a search finds for a small net on Fashion-MNIST, 20 s a training on a core."""
    home = Path(os.environ.get("INFLAME_HOME", tempfile.mkdtemp()))
    words = ["mnist", *NET, "--workers", "2", "--sampler-seed", str(seed), "--in", f"{seconds:g}s", "--name", side]
    words += ["--sampler", "random", "--no-stopping"] if side == "random" else ["--sampler", "tpe"]
    told = json.loads(start(home, *words).communicate()[0])
    tops = [one["values"][0] for one in told["trials"] if one["state"] == "done"]
    found = {"side": side, "seed": seed, "seconds": seconds, "trials": len(told["trials"])}
    return {**found, "whole": len(tops), "best": max(tops)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overhead", "kills", "probe", "search"))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=280)
    parser.add_argument("--who", default="inflame,ray,hydra")
    given = parser.parse_args()
    if given.what == "kills":
        print(json.dumps(kills(given.kills, given.trials, given.seed)))
    elif given.what == "probe":
        print(json.dumps(probe(given.trials)))
    elif given.what == "search":
        print(json.dumps(search(given.seed, given.seconds, given.who)))
    elif given.what == "overhead":
        print(json.dumps(overhead(given.trials, given.who.split(","))))


if __name__ == "__main__":
    main()
