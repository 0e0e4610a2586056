"""A device that is not the CPU, made of the CPU: its tensors are elsewhere for torch, and meet no others.

What computes there computes the same numbers here; where a tensor of the CPU meets one from there, or one from there
is given to NumPy, it is an error, as with a GPU. Importing it makes the device `far` known to torch.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch.utils import _pytree, backend_registration

HERE = torch.device("cpu")
ATEN = torch.ops.aten
CROSSING = (ATEN._to_copy.default, ATEN.copy_.default, ATEN._local_scalar_dense.default)  # from here to there, or back


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)


backend_registration._setup_privateuseone_for_python_backend("far", backend_module=_Module())
PLACE = torch.device("far:0")


class Far(torch.Tensor):
    """A tensor that is elsewhere; `near` is what it holds."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> Self:
        shape = {"strides": near.stride(), "storage_offset": near.storage_offset(), "dtype": near.dtype}
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, near.size(), device=PLACE, requires_grad=near.requires_grad, **shape
        )
        made.near = near.detach()
        return made  # type: ignore[no-any-return]

    def tolist(self) -> Any:
        """Its numbers, which are waited for."""
        return self.near.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"Far({self.near})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if func not in CROSSING and any(not isinstance(one, Far) and one.dim() for one in tensors):
            raise RuntimeError(f"{func}: tensors of two devices meet")
        device = kwargs.get("device")
        there = torch.device(device).type == "far" if device is not None else True
        if func is ATEN.copy_.default:
            there = isinstance(args[0], Far)
        elif func is ATEN._local_scalar_dense.default:
            there = False
        given = {name: HERE if name == "device" and value is not None else value for name, value in kwargs.items()}
        given.pop("pin_memory", None)
        near, named = _pytree.tree_map_only(Far, lambda one: one.near, (args, given))
        found = func(*near, **named)
        return _pytree.tree_map_only(torch.Tensor, Far, found) if there else found


def _empty(size: Any, *, dtype: Any = None, memory_format: Any = None, **_: Any) -> Far:
    return Far(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Far:
    return Far(torch.empty_strided(size, stride, dtype=dtype))


def _copy(source: Any, target: Any, non_blocking: bool = False) -> Any:
    getattr(target, "near", target).copy_(getattr(source, "near", source))
    return target


_aten, _any = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
_aten.impl("empty.memory_format", _empty, "PrivateUse1")
_aten.impl("empty_strided", _empty_strided, "PrivateUse1")
_aten.impl("_copy_from", _copy, "PrivateUse1")
_any.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
