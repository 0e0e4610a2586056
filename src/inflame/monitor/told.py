"""What a window means, in words: in English, or as `speak` says them."""

from __future__ import annotations

from inflame.model.engine.shift import Finding
from inflame.monitor.drift import CHANGED, QUIET, RISK, Window, advise
from inflame.monitor.speech import Say, english

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


def finding(one: Finding, speak: Say = english) -> str:
    """What a finding says: `more noise`."""
    if one.name in _OTHERS:
        return speak(_OTHERS[one.name])
    if one.name not in _WORDS:
        return speak("direction {n} of the features has moved", n=one.name.rpartition(" ")[2])
    if abs(one.shift) < 0.1:
        return speak("{name}: another spread", name=speak(one.name))
    return speak(_WORDS[one.name][one.shift > 0])


def named(name: str, speak: Say = english) -> str:
    """The name of a finding that is remembered: `noise`."""
    number = name.rpartition(" ")[2]
    return speak("direction {n} of the features", n=number) if name.startswith("direction ") else speak(name)


def size(one: Finding, speak: Say = english) -> str:
    """How much: `+2.1 deviations, distance 0.55`."""
    distance = speak("distance {effect}", effect=f"{one.effect:.2f}")
    if not one.shift:
        return distance
    return f"{speak('{moved} deviations', moved=f'{one.shift:+.1f}'.replace('-', '−'))}, {distance}"


def accuracy(window: Window, speak: Say = english) -> str:
    """The estimated accuracy, in a line."""
    guess = window.estimate
    if guess is None:
        return speak("not estimated: the model was made without the time for it; inflame monitor learn")
    if not guess.reliable:
        return speak("can't be estimated: nothing like this was ever tested; label {n} items", n=guess.label)
    shares = {name: f"{getattr(guess, name):.3f}" for name in ("accuracy", "low", "high")}
    return speak("about {accuracy} ({low}–{high}), it was {before}", **shares, before=f"{window.accuracy_before:.3f}")


def often(window: Window, speak: Say = english) -> str:
    """How far apart false alarms are."""
    apart = window.to_json()["between_false_alarms"]
    return speak(
        'among unchanged windows "{changed}" rings wrongly once in {often} or less often, "{risk}" once in {seldom}',
        changed=speak(CHANGED),
        often=f"{apart['changed']:,}",
        risk=speak(RISK),
        seldom=f"{apart['risk']:,}",
    )


def advice(window: Window, speak: Say = english) -> str:
    """What to do."""
    return advise(window.level, window.estimate, window.copies, speak)
