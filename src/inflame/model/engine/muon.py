"""Muon: momentum whose direction is made orthogonal, so that a step changes every direction of a filter bank alike.

After Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks", written from its formulae
(kellerjordan.github.io/posts/muon).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from inflame.errors import SettingError

# s → a·s + b·s³ + c·s⁵ lifts small singular values fastest, and leaves those near 1 between 0.7 and 1.2.
_CURVE: Final = (3.4445, -4.7750, 2.0315)


def orthogonal(matrices: Sequence[Tensor], *, rounds: int = 5) -> list[Tensor]:
    """The matrices (float [M,N], any shapes) with singular values near 1 and the same singular vectors, up to rounding.

    `rounds` Newton-Schulz iterations of a quintic; values below about 3 % of a matrix's norm stay below 1 with five.
    Those of one shape go through together, in bfloat16 on CUDA. A matrix of zeros stays one.
    """
    alike: dict[torch.Size, list[int]] = defaultdict(list)
    for number, matrix in enumerate(matrices):
        alike[matrix.shape].append(number)
    found = list(matrices)
    for shape, numbers in alike.items():
        made = _orthogonal(torch.stack([matrices[number] for number in numbers]), shape[0] > shape[1], rounds)
        for number, matrix in zip(numbers, made, strict=True):
            found[number] = matrix
    return found


def _orthogonal(stack: Tensor, tall: bool, rounds: int) -> Tensor:
    """[B,M,N] → [B,M,N]; tall ones lie down meanwhile, which keeps the products small."""
    x = (stack.mT if tall else stack).to(torch.bfloat16 if stack.is_cuda else torch.float32)
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    a, b, c = _CURVE
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    found: Tensor = (x.mT if tall else x).to(stack.dtype)
    return found


@final
class Muon(Optimizer):
    """Muon for the groups with `orthogonal` true, SGD with Nesterov momentum for the others.

    A group says `params`, `lr` (a number, or a tensor without dimensions, which a CUDA graph can be told anew),
    `momentum`, and `weight_decay`: the share of every weight that a step at the rate of the beginning takes away.
    Filters of orthogonal groups (any shape [M,…]) must be followed by a batch norm, which doesn't see their scale: they
    are brought to the norm √M before each step, as are the updates, so that `lr` is the share of a filter that a step
    changes. They can't have weight decay: SettingError.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, rounds: int = 5) -> None:
        super().__init__(groups, {"momentum": 0.9, "weight_decay": 0.0, "orthogonal": False})
        self._rounds = rounds
        for group in self.param_groups:
            if group["orthogonal"] and group["weight_decay"]:
                raise SettingError(
                    "Filters that Muon keeps at their norm can't have weight decay.",
                    remedy="Leave weight_decay out of orthogonal groups.",
                    where="Muon",
                )
            group["decay"] = group["weight_decay"] / group["lr"]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step with the gradients there are; `closure` isn't called."""
        for group in self.param_groups:
            held = [p for p in group["params"] if p.grad is not None]
            if held:
                updates = self._moved(held, group)
                if group["orthogonal"]:
                    updates = _shared(held, updates, self._rounds)
                torch._foreach_mul_(updates, -group["lr"])
                torch._foreach_add_(held, updates)

    def _moved(self, held: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """The gradients with their momentum, looked ahead of (Nesterov)."""
        gradients: Any = [p.grad for p in held]
        if group["decay"]:
            gradients = torch._foreach_add(gradients, held, alpha=group["decay"])
        for p in held:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        moments = [self.state[p]["momentum"] for p in held]
        torch._foreach_mul_(moments, group["momentum"])
        torch._foreach_add_(moments, gradients)
        return list(torch._foreach_add(gradients, moments, alpha=group["momentum"]))


def _shared(held: list[Tensor], updates: list[Tensor], rounds: int) -> list[Tensor]:
    """The updates, orthogonal and of the norm √M; the filters are brought to that norm in place."""
    norms = torch._foreach_norm(held)
    torch._foreach_mul_(held, [len(p) ** 0.5 / norm.clamp_min(1e-7) for p, norm in zip(held, norms, strict=True)])
    made = orthogonal([update.flatten(1) for update in updates], rounds=rounds)
    # Singular values of 1 in a matrix [M,N] give the norm √min(M,N).
    return [
        (matrix * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5).reshape(p.shape)
        for matrix, p in zip(made, held, strict=True)
    ]
