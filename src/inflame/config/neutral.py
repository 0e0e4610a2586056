"""The value that switches a setting off: what a recipe is without that part of it."""

from __future__ import annotations

from typing import Any

# By the last part of the name: `tail_weight_decay` is switched off as `weight_decay` is.
NEUTRAL: dict[str, Any] = {
    "blur": 0,
    "clip_norm": 0,
    "crop": 0,
    "cutmix": 0,
    "cutout": 0,
    "dropout": 0,
    "drop_path": 0,
    "ema": 0,
    "flip": False,
    "label_smoothing": 0,
    "layer_decay": 1,
    "mirror": False,
    "mixup": 0,
    "momentum": 0,
    "noise": 0,
    "patience": 0,
    "prune": 0,
    "rotate": 0,
    "shift": 0,
    "shift_grey": 0,
    "tail_decay": 1,
    "warmup": 0,
    "weight_decay": 0,
}


def off(name: str, value: Any) -> Any:
    """What `hyperparam.NAME` is switched off by; None where there is no such value, or where it is off already."""
    if isinstance(value, bool):
        return False if value else None
    last = name.rpartition(".")[2]
    found = next((NEUTRAL[key] for key in sorted(NEUTRAL, key=len, reverse=True) if _ends(last, key)), None)
    if found is None or found == value or isinstance(found, bool):
        return None
    if value == "auto":  # as much of it as suits the time
        return found
    return type(value)(found) if isinstance(value, (int, float)) else None


def _ends(name: str, key: str) -> bool:
    return name == key or name.endswith(f"_{key}")
