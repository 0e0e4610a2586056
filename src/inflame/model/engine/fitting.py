"""A checkpoint that was made for something else: which of its tensors don't fit, and what goes on all the same; also
for another number of processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from inflame.errors import CheckpointError

if TYPE_CHECKING:
    from inflame.model.engine.device import Device
    from inflame.model.engine.learner import Learner

MOST = 3  # tensors that are named
WAYS_OUT = "Undo the change to the model, begin anew (fresh=true), or keep what fits: resume=RUN force=true"


def misfits(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, str]:
    """The tensors by name that aren't the same in both, with what is wrong: shapes first, then what is missing, then
    what is too much."""
    shapes = {
        name: f"{name} is {_size(given[name])}, here {_size(wanted[name])}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    }
    missing = {name: f"it has no {name}" for name in wanted if name not in given}
    extra = {name: f"{name} isn't in this net" for name in given if name not in wanted}
    return {**shapes, **missing, **extra}


def require(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """CheckpointError, with the first tensors that don't fit, for weights of another net."""
    wrong = list(misfits(given, wanted).values())
    if wrong:
        rest = f"; and {len(wrong) - MOST} more" if len(wrong) > MOST else ""
        raise CheckpointError(
            f"The checkpoint is of another net: {'; '.join(wrong[:MOST])}{rest}.",
            remedy=WAYS_OUT,
        )


def refusal(error: Exception) -> CheckpointError:
    """The error for a checkpoint that the net or the optimizer didn't take, for the reason that torch gives."""
    return CheckpointError(
        f"The checkpoint doesn't fit this net and optimizer: {str(error).splitlines()[0]}", remedy=WAYS_OUT
    )


def adapted(state: dict[str, Any], learner: Learner, *, afresh: bool) -> tuple[dict[str, Any], list[str]]:
    """The state of a checkpoint with what doesn't fit put in its place as the learner has it now, and a line for each
    thing that begins anew. afresh: the clock and the place in an epoch do so in any case, for settings or data are
    others."""
    now = learner.state_dict()
    wrong = misfits(state["net"], now["net"])
    fits = {name: value for name, value in state["net"].items() if name in now["net"] and name not in wrong}
    lines = []
    if wrong:
        first = "; ".join(list(wrong.values())[:MOST])
        lines.append(f"{len(fits)} of {len(now['net'])} tensors of the net go on; the rest begin anew ({first})")
        found = {**now, "net": {**now["net"], **fits}}
        return found, [*lines, "optimizer, averages and epochs begin anew"]
    found = dict(state)
    if not _steps_alike(state["optimizer"], learner):
        found["optimizer"] = now["optimizer"]
        lines.append("the optimizer begins anew: it is another one, or has other groups")
    if afresh:
        at = {**state["at"], "batch": 0}
        found |= {"at": at, "elapsed": 0.0, "tally": now["tally"], "each": []}
        lines.append(
            f"the net goes on from step {at['step']}; the clock begins anew, and so does epoch {at['epoch'] + 1}"
        )
    return found, lines


def gathered(learner: Learner) -> dict[str, Any]:
    """The state of a learner for a file: with whole tensors, and what each of several processes, which must all ask,
    has for itself."""
    state: dict[str, Any] = learner.device.whole(learner.state_dict())
    if learner.device.world > 1:
        state["each"] = learner.device.gather({name: state[name] for name in ("tally", "random")})
    return state


def own(state: dict[str, Any], device: Device) -> dict[str, Any]:
    """What this process had counted (`tally`), and where its generators stood (`random`). Of another number of
    processes the first one takes over all that was counted, and each of them the first one's generators."""
    each = state.get("each", [])
    if len(each) == device.world:
        mine: dict[str, Any] = each[device.rank]
        return mine
    counted = [one["tally"] for one in each] or [state["tally"]]
    sums = [float(device.main) * sum(parts) for parts in zip(*counted, strict=True)]
    return {"tally": sums, "random": state["random"]}


def _steps_alike(given: dict[str, Any], learner: Learner) -> bool:
    """Whether an optimizer's state has the groups, the parameters and the memory of the one here."""
    now = learner.optimizer.state_dict()["param_groups"]
    groups = given["param_groups"]
    if [set(group) for group in groups] != [set(group) for group in now]:
        return False
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in now]:
        return False
    parameters = [parameter for group in learner.optimizer.param_groups for parameter in group["params"]]
    return all(
        value.shape in ((), parameters[number].shape)
        for number, memory in given["state"].items()
        for value in memory.values()
        if isinstance(value, Tensor)
    )


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"
