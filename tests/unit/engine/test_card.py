"""The card says the same as the numbers, and does not hide what is missing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from inflame.model.engine import metrics
from inflame.model.engine.calibrate import Calibration
from inflame.model.engine.card import card
from inflame.records import Dataset, Fault, Preprocess

FRUIT = Dataset(
    name="fruit",
    kind="image",
    classes=("apple", "lime", "plum"),
    root="photos",
    version="0123456789abcdef",
    items=pa.table({"uri": ["a", "b"]}),
    faults=(Fault(kind="unreadable", severity="error", reason="cut off", items=("x.jpg", "y.jpg")),),
    licence="CC0 1.0",
)
PREPROCESS = Preprocess(size=160, resize=182)


def test_what_a_reader_needs() -> None:
    labels, predicted = np.array([0] * 10 + [1] * 10 + [2] * 10), np.array([0] * 10 + [1] * 9 + [2] + [2] * 5 + [1] * 5)
    text = card(
        model="auto",
        dataset=FRUIT,
        preprocess=PREPROCESS,
        calibration=Calibration(
            temperature=1.31, threshold=0.62, coverage=0.9, error_rate=0.04, error_upper=0.09, n=40
        ),
        test=metrics.accuracy(labels, predicted),
        results=metrics.per_class(metrics.confusion(labels, predicted, 3)),
        majority=metrics.rate(10, 30),
        how="frozen MobileNetV2 and a logistic regression",
        limits=["No picture was taken at night."],
    )
    for part in (
        "Test accuracy 80.0 % (95 % interval 62.7 % to 90.5 %, 30 items",
        "would give 33.3 %",
        "CC0 1.0",
        "apple, lime, plum",
        "160 x 160",
        "| plum | 10 | 50 % (24 % to 76 %) | 83 % |",
        "Below 0.62",
        "wrong on 4.0 % of the answered (at most 9.0 %",
        "2 items of the data were left out",
        "30 test items are few",
        "No picture was taken at night.",
        "from inflame.model.engine.bundle import Predictor",
        "version 0123456789ab.",
    ):
        assert part in text, part
    assert text.index("| plum") < text.index("| lime") < text.index("| apple")


def test_what_is_not_known_is_said() -> None:
    text = card(model="auto", dataset=FRUIT, preprocess=PREPROCESS, calibration=Calibration(), test=None)
    assert "Not tested" in text
    assert "calibrated" not in text
    unsure = Calibration(n=10, attained=False, error=0.05, error_rate=0.2, error_upper=0.5, threshold=0.9, coverage=0.5)
    text = card(model="auto", dataset=FRUIT, preprocess=PREPROCESS, calibration=unsure, test=None)
    assert "The wanted 5 % could not be reached." in text
