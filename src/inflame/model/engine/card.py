"""The model card of a bundle: what it is, how good, where it fails, how to use it. Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inflame.model.engine.calibrate import Calibration
    from inflame.model.engine.metrics import ClassResult, Rate
    from inflame.records import Dataset, Preprocess, TextPreprocess

SHOWN = 30  # classes named in full
_OTHERS = {"picture": "cameras, places or seasons", "text": "writers, places or years"}
_TAKES = {
    "picture": "`pictures`, uint8 [N, size, size, channels] (short side to `resize`, centre crop: preprocess.json),",
    "text": "`ids` and `counts` [N, L] (words and pairs of words, see preprocess.json),",
}


def card(
    *,
    model: str,
    dataset: Dataset,
    preprocess: Preprocess | TextPreprocess,
    calibration: Calibration,
    test: Rate | None,
    results: Sequence[ClassResult] = (),
    majority: Rate | None = None,
    how: str = "",
    limits: Sequence[str] = (),
) -> str:
    """The card as Markdown. `test` is the accuracy on the test split, `results` its per-class results, in the order of
    the data set's classes; `how` one line on the training; `limits` more sentences on where it fails."""
    thing = "text" if dataset.kind == "text" else "picture"
    parts = [
        f"# {dataset.name}: a {thing} classifier",
        _what(model, dataset, preprocess, how),
        "## How good",
        _good(test, majority, calibration),
        *_weakest(dataset.classes, results),
        "## Limits",
        _limits(dataset, test, limits, thing),
        "## Use",
        _use(thing),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(model: str, dataset: Dataset, preprocess: Preprocess | TextPreprocess, how: str) -> str:
    names = ", ".join(dataset.classes[:SHOWN])
    more = f" and {len(dataset.classes) - SHOWN} more" if len(dataset.classes) > SHOWN else ""
    rows = [
        f"- Answers with one of {len(dataset.classes)} classes: {names}{more}.",
        f"- Model: {model}{'; ' + how if how else ''}.",
        f"- Input: {_input(preprocess)}.",
        f"- Data: {dataset.name}, {len(dataset):,} items, version {dataset.version[:12]}.",
        f"- Source of the data: {dataset.source}." if dataset.source else "",
        f"- Licence of the data: {dataset.licence or 'not stated; ask before you pass the model on'}.",
    ]
    return "\n".join(row for row in rows if row)


def _input(preprocess: Preprocess | TextPreprocess) -> str:
    words = getattr(preprocess, "words", None)
    if words is not None:
        return f"a text, of which {len(words):,} words and their pairs are counted"
    assert not hasattr(preprocess, "words")
    colour = "grey" if preprocess.channels == 1 else "colour"
    return f"a picture, used as {preprocess.size} x {preprocess.size} pixels in {colour}"


def _good(test: Rate | None, majority: Rate | None, calibration: Calibration) -> str:
    rows = []
    if test is not None and test.n:
        rows.append(
            f"- Test accuracy {_pc(test.value, 1)} (95 % interval {_pc(test.low, 1)} to {_pc(test.high, 1)}, "
            f"{test.n:,} items that no choice was made on)."
        )
    else:
        rows.append("- Not tested: there was no test split.")
    if majority is not None and majority.n:
        rows.append(f"- Always answering the most frequent class would give {_pc(majority.value, 1)}.")
    if calibration.n:
        rows.append(
            f"- Probabilities are calibrated on {calibration.n:,} held-out items (temperature "
            f"{calibration.temperature:.2f}, {calibration.source})."
        )
        rows.append(_unknown(calibration))
        sure = _pc(1 - calibration.alpha)
        rows.append(f"- The set that comes with an answer holds the truth for at least {sure} of such items.")
    return "\n".join(rows)


def _unknown(calibration: Calibration) -> str:
    kept = "" if calibration.attained else f" The wanted {_pc(calibration.error)} could not be reached."
    return (
        f'- Below {calibration.threshold:.2f} it says "I don\'t know": it answered {_pc(calibration.coverage)} of them '
        f"and was wrong on {_pc(calibration.error_rate, 1)} of the answered "
        f"(at most {_pc(calibration.error_upper, 1)}, 95 % confidence).{kept}"
    )


def _weakest(classes: Sequence[str], results: Sequence[ClassResult]) -> list[str]:
    found = sorted((r for r in results if r.support), key=lambda r: (r.recall.value, r.index))[:5]
    if not found:
        return []
    rows = [
        f"| {classes[r.index]} | {r.support} | {_pc(r.recall.value)} ({_pc(r.recall.low)} to {_pc(r.recall.high)}) "
        f"| {_pc(r.precision.value)} |"
        for r in found
    ]
    head = "| hardest classes | test items | found | of answers right |\n|---|---|---|---|\n"
    return [head + "\n".join(rows)]


def _limits(dataset: Dataset, test: Rate | None, limits: Sequence[str], thing: str) -> str:
    rows = [
        f"Every {thing} gets one of the classes above, whatever it is; look at `known` and `set` before you act.",
        f"The numbers hold for {thing}s like those of the data set. Other {_OTHERS[thing]} can cost accuracy.",
    ]
    if test is not None and 0 < test.n < 200:
        rows.append(f"{test.n} test items are few: the interval above is wide.")
    errors = sum(len(fault.items) or 1 for fault in dataset.faults if fault.severity == "error")
    if errors:
        rows.append(f"{errors} items of the data were left out because of faults.")
    return "\n".join(f"- {row}" for row in (*rows, *limits))


def _use(thing: str) -> str:
    file = "letter.txt" if thing == "text" else "photo.jpg"
    lines = [
        "```python",
        "from inflame.model.engine.bundle import Predictor  # needs no torch",
        "",
        'predictor = Predictor("path/of/this/folder")',
        f'answer = predictor.predict(["{file}"])[0]',
        "print(answer.label, answer.probability, answer.known, answer.set)",
        "```",
        "",
        f"Or `inflame predict {file}`. Without inflame: `model.onnx` takes {_TAKES[thing]} and gives `logits` and",
        "`embedding`; divide the logits by the temperature of calibration.json and take the softmax.",
    ]
    return "\n".join(lines)


def _pc(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"
