"""What structured pruning costs and gives: the same command with `hyperparam.prune=0.5` and without, in the same time.

Whole `inflame train fowl_classifier` commands on the butterflies; the file that is served, its answers' time on
onnxruntime (one picture, median of 50) and the accuracy of the test split with its interval. VGG16 starts from random
weights (batch norms with it, else it learns nothing in the time), MobileNetV2 from those of the mirror. Needs
`INFLAME_MIRROR`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

VGG = ("net=torchvision:vgg16_bn", "hyperparam.size=64", "hyperparam.learning_rate=2e-3", "hyperparam.layer_decay=1.0")
NETS = {
    "VGG16, 64 pixels, from scratch": VGG,
    "MobileNetV2, 96 pixels, fine-tuned": ("hyperparam.size=96",),
}
WEIGHTS = "mobilenetv2_100.inat_insect.safetensors"


def trained(words: tuple[str, ...], seconds: int, home: str) -> dict[str, object]:
    """The result of one command."""
    told = ["io.training_input=butterflies", *words, "hyperparam.num_epochs=0", "--in", f"{seconds}s"]
    done = subprocess.run(
        [sys.executable, "-m", "inflame", "train", "fowl_classifier", *told, "--json", "fresh=true"],
        env={**os.environ, "INFLAME_HOME": home},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def latency(bundle: Path, side: int) -> float:
    """Milliseconds for one picture, median of 50 after 5."""
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])
    picture = {session.get_inputs()[0].name: np.zeros((1, side, side, 3), np.uint8)}
    times = []
    for _ in range(55):
        began = time.perf_counter()
        session.run(None, picture)
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[5:])


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=240)
    parser.add_argument("--nets", nargs="*", default=list(NETS))
    words = parser.parse_args()
    weights = Path(os.environ["INFLAME_MIRROR"]) / "weights" / WEIGHTS
    print("| net | pruned | model.onnx, MB | one picture, ms | test accuracy (95 %) |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as home:
        for name in words.nets:
            how = NETS[name] if "VGG" in name else (*NETS[name], f"weights={weights}")
            for share in (0.0, 0.5):
                result = trained((*how, f"hyperparam.prune={share}"), words.seconds, home)
                bundle, test = Path(str(result["bundle"])), result["test"]
                assert isinstance(test, dict)
                side = json.loads((bundle / "preprocess.json").read_text())["size"]
                accuracy = f"{test['accuracy']:.3f} ({test['low']:.3f} to {test['high']:.3f}, n = {test['n']})"
                size = (bundle / "model.onnx").stat().st_size / 1e6
                print(f"| {name} | {share:.0%} | {size:.1f} | {latency(bundle, side):.2f} | {accuracy} |", flush=True)


if __name__ == "__main__":
    main()
