"""Where memory is short answers are asked for in parts, and are the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inflame.artifact import loader
from inflame.model.auto import cutting
from inflame.model.engine import backbones, conclude, memory, nets
from inflame.records import Preprocess


class Full(nn.Module):
    """Memory is short where more than `most` items come at once; `asked` says how many came."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.asked: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return x.flatten(1)


def pictures(count: int = 20) -> loader.Pictures:
    dice = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (count, 8, 8, 3), generator=dice, dtype=torch.uint8)
    return loader.Pictures(pixels=pixels, labels=torch.arange(count) % 3, uris=tuple(map(str, range(count))))


def net(most: int) -> nets.Classifier:
    torch.manual_seed(0)
    return nets.Classifier(Full(most), nn.Linear(192, 3), {})


def test_parts_are_remembered_and_order_is_kept() -> None:
    full, few = Full(3), memory.Parts()
    x = torch.arange(20.0).reshape(10, 2)
    for _ in range(2):
        assert torch.equal(memory.joined(few(full, x)), x)
    assert few.count == 4
    assert full.asked == [10, 5, 3, 3, 3, 1, 3, 3, 3, 1]


def test_an_item_that_does_not_fit_is_an_error_and_so_is_another_one() -> None:
    few = memory.Parts()
    with pytest.raises(torch.OutOfMemoryError):
        few(Full(0), torch.zeros(4, 1))
    with pytest.raises(RuntimeError, match="shape"):
        memory.Parts()(lambda x: x.reshape(7), torch.zeros(4, 1))


def test_a_model_answers_in_parts() -> None:
    plan, given = Preprocess(size=8, resize=8), pictures()
    wanted, found = (conclude.answers(net(most), plan, given) for most in (1000, 3))
    for mine, theirs in zip(wanted, found, strict=True):
        np.testing.assert_allclose(theirs, mine, rtol=1e-5)


def test_a_frozen_body_and_a_tail_answer_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones.Frozen, "_compiled", lambda *_: None)  # as on a GPU: no onnxruntime
    plan, pixels = Preprocess(size=8, resize=8), pictures().pixels.numpy()
    wanted, found = (
        backbones.Frozen(Full(most), plan, key="", device=torch.device("cpu"))(pixels[:, :, ::-1]) for most in (1000, 3)
    )
    np.testing.assert_allclose(found, wanted)
    np.testing.assert_allclose(cutting.through(Full(3), found.astype(np.float16)), found, atol=1e-2)
