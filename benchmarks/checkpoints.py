"""How long the loop stands still for a checkpoint: a net of 100 MB with AdamW's two averages beside it, on this disk.

A copy in memory is all that a step waits for; the thread that hashes and writes is the other column.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

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
    last = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
    print("| file | stall, median ms | longest ms | until it is on the disk, ms |\n|---|---|---|---|")
    for name, state in (("last", last), ("best", {"net": last["net"]})):
        print(row(name, state))


def row(name: str, state: dict[str, Any]) -> str:
    """What one kind of checkpoint takes, as a line of the table."""
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
    note(f"checkpoints: stall, {size:.0f} MB", 1e3 * statistics.median(stalls), "ms")
    return (
        f"| {name}, {size:.0f} MB | **{1e3 * statistics.median(stalls):.0f}** (to reach 50) "
        f"| {1e3 * max(stalls):.0f} | {1e3 * statistics.median(whole):.0f} |"
    )


if __name__ == "__main__":
    main()
