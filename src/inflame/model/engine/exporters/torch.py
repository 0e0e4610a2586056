"""A program of `torch.export`: runs where torch is, without inflame."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame import plugins
from inflame.errors import ExportError
from inflame.model.engine.export import Inputs, Subject, Written

if TYPE_CHECKING:
    from torch.export import ExportedProgram

FILE = "model.pt2"


def write(subject: Subject, place: Path) -> Written:
    """`model.pt2`: `torch.export.load("model.pt2").module()(pictures)` with uint8 [N,H,W,C] (of texts: ids, counts
    [N,L]), N free → probabilities float32 [N,K]."""
    plugins.need("torch", "train", "Writing a program of torch")
    import torch

    torch.export.save(program(subject), place / FILE)
    loaded = torch.export.load(place / FILE).module()

    def answer(inputs: Inputs) -> Any:
        with torch.inference_mode():
            return loaded(*(torch.from_numpy(value) for value in inputs.values())).numpy()

    return Written(answer=answer)


def program(subject: Subject) -> ExportedProgram:
    """The served net with temperature and softmax as a graph of ATen operations, its batch size free."""
    import torch
    from torch import Tensor, nn

    from inflame.model.engine import freeze

    predictor = subject.predictor

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.served = freeze.served(subject.net(), predictor.preprocess)

        def forward(self, *inputs: Tensor) -> Tensor:
            return torch.softmax(self.served(*inputs)[0] / predictor.calibration.temperature, dim=1)

    example = tuple(freeze.example(predictor.preprocess).values())
    n, length = torch.export.Dim("n", min=1), torch.export.Dim("length", min=1)
    free = {0: n} if len(example) == 1 else {0: n, 1: length}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of what it does itself
            return torch.export.export(Whole().eval(), example, dynamic_shapes=(tuple(free for _ in example),))
    except Exception as error:  # whatever tracing meets has no common class
        raise ExportError(
            f"torch.export can't follow the net: {str(error).strip().splitlines()[0]}",
            where=FILE,
            remedy="Let the net have no Python branches on tensor values; --to onnx may do.",
        ) from error
