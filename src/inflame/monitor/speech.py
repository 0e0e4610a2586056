"""How the monitor's sentences are said: in English, or as whoever shows them says them."""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[..., str]  # say("Hello {name}", name=…)


def english(sentence: str, **values: object) -> str:
    """The sentence as it is, with its values."""
    return sentence.format(**values) if values else sentence
