"""What a window means, in words."""

from __future__ import annotations

from inflame.model.engine.shift import Finding
from inflame.monitor.drift import CHANGED, QUIET, RISK, Window

_WORDS = {
    "brightness": ("darker", "brighter"),
    "contrast": ("less contrast", "more contrast"),
    "sharpness": ("softer, less detail", "sharper, more fine detail"),
    "noise": ("less noise", "more noise"),
    "colour": ("less colour", "more colour"),
    "dark": ("fewer black parts", "more black parts"),
    "bright": ("fewer white parts", "more white parts"),
    "width": ("narrower pictures", "wider pictures"),
    "height": ("lower pictures", "taller pictures"),
    "aspect": ("more upright", "more landscape"),
    "density": ("smaller files for their pixels", "larger files for their pixels"),
    "quality": ("stronger JPEG compression", "weaker JPEG compression"),
    "letters": ("shorter texts", "longer texts"),
    "words": ("fewer words", "more words"),
    "length": ("shorter words", "longer words"),
    "strange": ("fewer letters beyond a to z", "more letters beyond a to z"),
    "capitals": ("fewer capitals", "more capitals"),
    "digits": ("fewer digits", "more digits"),
    "confidence": ("less sure answers", "surer answers"),
    "entropy": ("clearer answers", "more doubt between classes"),
    "distance": ("nearer to what was trained on", "further from what was trained on"),
}
_OTHERS = {
    "embedding": "the features of the model lie elsewhere",
    "classes": "other shares of the classes",
    "unknown": "more items that the model does not know",
    "type": "other types of files",
}
HEADS = {
    QUIET: "Nothing has changed",
    CHANGED: "Input changed",
    RISK: "Accuracy at risk",
}


def finding(one: Finding) -> str:
    """What a finding says: `more noise`."""
    if one.name in _OTHERS:
        return _OTHERS[one.name]
    if one.name not in _WORDS:
        return f"{one.name} of the features has moved"
    if abs(one.shift) < 0.1:
        return f"{one.name}: another spread"
    return _WORDS[one.name][one.shift > 0]


def size(one: Finding) -> str:
    """How much: `+2.1 deviations, distance 0.55`."""
    moved = f"{one.shift:+.1f} deviations, ".replace("-", "−") if one.shift else ""
    return f"{moved}distance {one.effect:.2f}"


def accuracy(window: Window) -> str:
    """The estimated accuracy, in a line."""
    guess = window.estimate
    if guess is None:
        return "not estimated: the model was made without the time for it; inflame monitor learn"
    if not guess.reliable:
        return f"can't be estimated: nothing like this was ever tested; label {guess.label} items"
    return f"about {guess.accuracy:.3f} ({guess.low:.3f}–{guess.high:.3f}), it was {window.accuracy_before:.3f}"


def often(window: Window) -> str:
    """How far apart false alarms are."""
    apart = window.to_json()["between_false_alarms"]
    return (
        f'among unchanged windows "{CHANGED}" rings wrongly once in {apart["changed"]:,} or less often, '
        f'"{RISK}" once in {apart["risk"]:,}'
    )
