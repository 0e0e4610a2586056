"""The verb export: the model as a file for elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame import plugins
from inflame import runs as folders
from inflame.cli.show import as_json
from inflame.errors import BundleError, UserError

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser


def export_words(parser: Parser) -> None:
    """The run, the format, and the folder."""
    parser.usage = "inflame export [RUN] [--to FORMAT] [--out FOLDER]"
    parser.description = (
        "Write the model for use without inflame, with its classes and how pictures are prepared:\n"
        "  onnx     one file: pictures in, probabilities out; everything between is inside\n"
        "  torch    a program of torch.export (.pt2)\n"
        "  keras    a model of Keras 3 (.keras), for each of its backends\n"
        "  int8     ONNX in numbers of 8 bits, a quarter as large; says what accuracy that costs\n"
        "  browser  a folder for any web server: its page classifies in the browser, nothing is sent\n"
        "What was written is asked about held-out items of the run; where it answers unlike the model,\n"
        "nothing is kept."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame export --to onnx\n"
        "  inflame export auto-photos-001 --to int8 --out small/\n"
        "  inflame export --to browser --out page/    then: python -m http.server -d page"
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run (inflame runs) or its folder; default: the last")
    parser.add_argument("--to", default="onnx", metavar="FORMAT", help="onnx (default), torch, keras, int8 or browser")
    parser.add_argument("--out", metavar="FOLDER", help="where to (default: export/FORMAT in the run folder)")
    parser.add_argument(
        "--lose", type=float, metavar="POINTS", help="int8 may cost so many points of accuracy (default: 2)"
    )


def export(words: Namespace) -> int:
    """Prints what was written, where, and how it was checked."""
    if words.to not in plugins.names("exporter"):
        plugins.load("exporter", words.to)  # which knows the nearest name
    if words.lose is not None and not 0 <= words.lose <= 100:
        raise UserError(f"--lose takes points of accuracy, 0 to 100, not {words.lose:g}.", remedy="--lose 2")
    run = folders.find(words.run) if words.run else folders.latest()
    if run is None:
        raise BundleError("There is no trained model yet.", remedy="inflame train photos/ --in 60s")
    from inflame.model.engine import export as exporting

    lose = exporting.LOSE if words.lose is None else words.lose / 100
    found = exporting.export(run, words.to, words.out, lose=lose)
    print(as_json(found) if words.json else "\n".join(_told(found)))
    return 0


def _told(found: dict[str, Any]) -> list[str]:
    lines = [f"wrote    {Path(found['folder']) / name}  ({_size(size)})" for name, size in found["files"].items()]
    if "change" not in found:
        return [
            *lines,
            f"checked  {found['items']} {found['split']} items: as the bundle answers, to {found['difference']:.1g}",
        ]
    change = found["change"]
    points = [f"{100 * change[name]:+.1f}" for name in ("value", "low", "high")]
    return [
        *lines,
        f"accuracy {found['accuracy']:.3f} against {found['bundle_accuracy']:.3f} of the bundle",
        f"change   {points[0]} points ({points[1]} to {points[2]}, 95 %) on {found['items']:,} {found['split']} items",
        f"agrees   on {100 * found['agreement']:.1f} % of them",
        f"is       {found['size_ratio']:.2f} x as large, takes {found['time_ratio']:.2f} x the time on one core here",
        f"how      {found['how']}",
    ]


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
