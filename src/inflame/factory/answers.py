"""What runs answered to the items they were judged on, read from their `predictions.parquet`, item beside item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inflame.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

PREDICTIONS = "predictions.parquet"
_COLUMNS = ["uri", "label", "split", "predicted", "suspect"]


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """The answers of one run to n items, in the order of their uris: `labels` and `predicted` int64 [n] are places in
    the reader's `names`, `loss` float64 [n] is -log of the probability that the label was given."""

    uris: pa.Array
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    loss: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    def correct(self) -> NDArray[np.bool_]:
        """Which were right."""
        return np.asarray(self.labels == self.predicted)


class Reader:
    """Reads answers once, and gives all runs the same numbers for the same class names."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._places: dict[str, int] = {}
        self._known: dict[tuple[Path, str], Answers] = {}

    def read(self, folder: Path, part: str = "test") -> Answers:
        """The answers in a run folder. part: "test", or "val" for all that were held out but the test.
        None there, or a file that can't be read: DataError."""
        if (folder, part) not in self._known:
            self._known[folder, part] = self._read(folder / PREDICTIONS, part)
        return self._known[folder, part]

    def _read(self, path: Path, part: str) -> Answers:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:  # read_table and Table.filter would import pandas, where it is installed
                table = file.read(columns=_COLUMNS)
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"The answers of {path.parent.name} can't be read: {error}",
                where=str(path),
                remedy="Finish its training by the same command, or leave the run out.",
            ) from error
        wanted = pc.equal(table["split"], "test")
        table = pc.filter(table, wanted if part == "test" else pc.invert(wanted))
        if not table.num_rows:
            raise DataError(
                f"The run {path.parent.name} has no {part} items.", where=str(path), remedy="Compare other runs."
            )
        table = pc.take(table, pc.sort_indices(table, sort_keys=[("uri", "ascending")]))
        believed = np.clip(
            np.from_dlpack(pc.fill_null(table["suspect"], 0.0).combine_chunks()).astype(np.float64), 1e-12, None
        )
        return Answers(
            table["uri"].combine_chunks(), self._numbers(table["label"]), self._numbers(table["predicted"]),
            -np.log(believed),
        )  # fmt: skip

    def _numbers(self, column: pa.ChunkedArray) -> NDArray[np.int64]:
        found: Any = column.combine_chunks().dictionary_encode()
        for name in found.dictionary.to_pylist():
            if name not in self._places:
                self._places[name] = len(self.names)
                self.names.append(name)
        places = np.array([self._places[name] for name in found.dictionary.to_pylist()], dtype=np.int64)
        return places[np.from_dlpack(found.indices).astype(np.int64)]


def demand_same(sides: Sequence[Answers], names: Sequence[str]) -> None:
    """Raises DataError where the answers are not to the same items with the same labels."""
    first = sides[0]
    for other, name in zip(sides, names, strict=True):
        if not first.uris.equals(other.uris) or not np.array_equal(first.labels, other.labels):
            raise DataError(
                f"{names[0]} and {name} were not judged on the same items.",
                where=f"{len(first):,} and {len(other):,} items",
                remedy="Compare runs of the same version of the data and the same split (the same split_seed, "
                "where the data brings no split of its own).",
            )
