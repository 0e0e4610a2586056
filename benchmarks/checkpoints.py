"""How long the loop stands still for a checkpoint: a net of 100 MB with AdamW's two averages beside it, on this disk.

A copy in memory is all that a step waits for; the thread that hashes and writes is the other column.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch
from benchmarks.history import note
from torch import nn

from inflame.model.engine import checkpoint

ROUNDS = 15


def main() -> None:
    """Prints a Markdown table."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(25)))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(2, 1024)).sum().backward()
    optimizer.step()
    state = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
    with tempfile.TemporaryDirectory() as folder:
        writer, stalls, whole = checkpoint.Writer(), [], []
        for turn in range(ROUNDS):
            began = time.perf_counter()
            writer.save(state, Path(folder))
            stalls.append(time.perf_counter() - began)
            writer.wait()
            whole.append(time.perf_counter() - began)
            if turn == 0:  # room is made the first time
                stalls.clear()
        size = sum(file.stat().st_size for file in Path(folder).iterdir()) / 2e6
    print(
        f"| file | stall, median ms | longest ms | until it is on the disk, ms |\n|---|---|---|---|\n| {size:.0f} MB ",
        end="",
    )
    note(f"checkpoints: stall, {size:.0f} MB", 1e3 * statistics.median(stalls), "ms")
    print(
        f"| **{1e3 * statistics.median(stalls):.0f}** (to reach 50) | {1e3 * max(stalls):.0f} "
        f"| {1e3 * statistics.median(whole):.0f} |"
    )


if __name__ == "__main__":
    main()
