"""What is most worth a person's look among the answers in the log, and what people agreed on.

Two kinds of answers are shown in turn. Those that teach most: where the model was unsure, where the input is unlike the
training, where a visitor disagreed; nearly equal ones once. And those that were chosen at random, whatever the model
said: only from these an honest accuracy can be told. Who is asked about which is a function of the answer's name.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inflame.errors import UserError
from inflame.model.engine.expected import Expected
from inflame.monitor import gather
from inflame.monitor.drift import NEAR, strangeness
from inflame.monitor.entries import NEW, VISITOR, Entry, Verdict, alike, plain
from inflame.monitor.log import Log
from inflame.monitor.speech import english

RANDOM = 10  # one answer of so many is asked about whatever it says
TURN = 4  # and every so many items it is its turn
SECOND = 8  # one labelled answer of so many is shown to another reviewer as well
LOOKED = 2000  # the latest answers that are looked through
APART = 4  # one agreed input of so many is never learned from: by these a champion and its challenger are compared
SKIPPED = 1000  # answers that a reviewer left out, remembered
ENOUGH = 20  # agreed inputs that were kept make a new class

DISAGREE = "reviewers disagree"
_Reason = tuple[str, tuple[str, str]]  # and the rivals that it names
_NOBODY = ("", "")
_STRANGE = (1.0, 3.0)  # deviations: as usual, and as unlike as it gets
_TOLD = 0.5  # of uncertainty or strangeness: then it is given as the reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An answer that someone should look at, for a `reason`, which may name two `rivals`, {a} and {b}; `random`: chosen
    by chance; `folded`: how many answers to nearly the same input stand behind it; `votes`: what was said of it so far,
    by others."""

    entry: Entry
    reason: str
    rivals: tuple[str, str] = ("", "")
    random: bool = False
    folded: int = 0
    votes: tuple[Verdict, ...] = ()
    worth: float = 0.0

    @property
    def why(self) -> str:
        """The reason in words."""
        return english(self.reason, a=self.rivals[0], b=self.rivals[1])

    def to_json(self) -> dict[str, Any]:
        """Without the arrays."""
        one = self.entry
        return {
            "answer": one.id,
            "label": one.label,
            "probability": one.probability,
            "known": one.known,
            "model": one.model,
            "input": one.input,
            "time": one.time,
            "source": one.source,
            "why": self.why,
            "random": self.random,
            "folded": self.folded,
            "votes": [vote.to_json() for vote in self.votes],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """An input that reviewers agree on: its class (`new`: or a name that was none when they said so), who said so, and
    when the last of them did."""

    entry: Entry
    label: str
    who: tuple[str, ...]
    time: float
    new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What reviewers said so far: the inputs they agree on, and the answers on which they don't, each with all that was
    said of it. `rejected`: inputs that are none of the classes, or whose class nobody knew."""

    accepted: tuple[Accepted, ...] = ()
    disputed: tuple[tuple[Entry, tuple[Verdict, ...]], ...] = ()
    rejected: int = 0


def waiting(
    log: Log, model: str, who: str, expected: Expected | None = None, *, most: int = LOOKED, kept: bool = False
) -> list[Candidate]:
    """What this reviewer should look at among the latest answers of a model, the most worth first.

    kept: only those whose input was kept, so that it can be seen and learned from.
    """
    entries = log.last(most, model)
    held = log.held([entry.input for entry in entries]) if kept else set()
    votes, skipped = _votes(log), set(log.noted(_skips(who), []))
    entries = [
        entry
        for entry in entries
        if entry.id not in skipped
        and _wanted(entry, votes.get(entry.input, []), who)
        and (not kept or entry.input in held)
    ]
    if not entries:
        return []
    worth, reasons = _worth(entries, votes, expected, (log.model(model) or {}).get("classes", []))
    order = np.argsort(-worth, kind="stable")
    made = [_candidate(entries[row], reasons[row], float(worth[row]), votes) for row in order]
    chance = sorted((one for one in made if one.random), key=lambda one: _digest(one.entry.id))
    return _in_turn(_folded([one for one in made if not one.random]), chance)


def is_random(answer: str) -> bool:
    """Whether an answer is one of those that people are asked about whatever it says."""
    return _digest(answer) % RANDOM == 0


def is_apart(input: str) -> bool:
    """Whether an input is kept apart, to compare models by: whoever labels it, it is never learned from."""
    return _digest(f"apart {input}") % APART == 0


def say(log: Log, answer: str, label: str, who: str, comment: str = "", *, new: bool = False) -> Verdict:
    """Keeps what a reviewer says of an answer: its class, or "" for none of the classes. new: `label` is the name of
    something that the model may have no class for; a class, or a name of before, is known again however it is spelt.

    No name, a name that is not a person's, an unknown answer or class: UserError.
    """
    who = reviewer(who)
    entry = log.find(answer)
    if new and entry is not None:
        classes = (log.model(entry.model) or {}).get("classes", [])
        label = _spelt(label, [*classes, *named(log)])
        new = label not in classes
    right = entry is not None and label == entry.label
    said = NEW if new else "right" if right else "label" if label else "wrong"
    return log.verdict(
        Verdict(answer=answer, said=said, label=label, who=who, asked=is_random(answer), comment=comment)
    )


def skip(log: Log, answer: str, who: str) -> None:
    """Doesn't show that answer to this reviewer again."""
    key = _skips(reviewer(who))
    log.note(key, [*log.noted(key, []), answer[:64]][-SKIPPED:])


def undo(log: Log, who: str) -> Verdict | None:
    """Takes back the last thing that this reviewer said; returns it, or None where there is nothing left."""
    mine = [verdict for _, verdict in log.verdicts() if verdict.who == who]
    if not mine:
        return None
    last = max(mine, key=lambda verdict: verdict.time)
    told = {**last.to_json(), "taken_back": True}
    told.pop("time")
    log.verdict(Verdict.from_json(told))
    return last


def labels(log: Log) -> Labels:
    """What reviewers agree on, input by input, whichever model answered and however often it was asked."""
    found: dict[str, list[tuple[Entry, Verdict]]] = {}
    for entry, verdict in log.verdicts():
        if verdict.who != VISITOR:
            found.setdefault(entry.input, []).append((entry, verdict))
    accepted, disputed, rejected = [], [], 0
    for pairs in found.values():
        said = {verdict.who: _class(entry, verdict) for entry, verdict in sorted(pairs, key=lambda pair: pair[1].time)}
        names = sorted(set(said.values()), key=lambda name: -sum(one == name for one in said.values()))
        most = sum(one == names[0] for one in said.values())
        if len(names) > 1:
            disputed.append((pairs[0][0], tuple(verdict for _, verdict in pairs)))
        if 2 * most <= len(said):
            continue
        if not names[0]:
            rejected += 1
            continue
        who = tuple(sorted(name for name, one in said.items() if one == names[0]))
        new = any(verdict.said == NEW for _, verdict in pairs if verdict.who in who)
        last = max(verdict.time for _, verdict in pairs)
        accepted.append(Accepted(entry=pairs[0][0], label=names[0], who=who, time=last, new=new))
    return Labels(accepted=tuple(accepted), disputed=tuple(disputed), rejected=rejected)


def named(log: Log) -> dict[str, int]:
    """The names of new things that anybody gave, and how often, the most frequent first."""
    return dict(Counter(verdict.label for _, verdict in log.verdicts() if verdict.said == NEW).most_common())


def newcomers(log: Log, classes: Sequence[str]) -> dict[str, int]:
    """The names of new things that are none of these classes, and how many inputs that were kept are agreed to be one,
    the most frequent first."""
    found = [one for one in labels(log).accepted if one.new and one.label not in classes]
    held = log.held([one.entry.input for one in found])
    return dict(Counter(one.label for one in found if one.entry.input in held).most_common())


def reviewer(name: str) -> str:
    """The name of a reviewer, without what can't be shown. Nobody's, or that of all visitors: UserError."""
    found = plain(name)
    if not found or found == VISITOR:
        raise UserError(
            "A reviewer needs a name of their own.", where=found, remedy="Say who looks: inflame inbox --as ann"
        )
    return found


# --- which ones ------------------------------------------------------------------------------------------------


def _votes(log: Log) -> dict[str, list[Verdict]]:
    """What was said of each input."""
    found: dict[str, list[Verdict]] = {}
    for entry, verdict in log.verdicts():
        found.setdefault(entry.input, []).append(verdict)
    return found


def _wanted(entry: Entry, votes: Sequence[Verdict], who: str) -> bool:
    """Whether one more look is wanted, from this reviewer."""
    reviewers = [vote for vote in votes if vote.who != VISITOR]
    if any(vote.who == who for vote in reviewers):
        return False
    return not reviewers or _undecided(entry, reviewers) or (len(reviewers) == 1 and _digest(entry.id) % SECOND == 0)


def _undecided(entry: Entry, votes: Sequence[Verdict]) -> bool:
    said = [_class(entry, vote) for vote in votes]
    return bool(said) and 2 * max(said.count(name) for name in said) <= len(said)


def _class(entry: Entry, verdict: Verdict) -> str:
    return verdict.label or (entry.label if verdict.said == "right" else "")


def _worth(
    entries: Sequence[Entry], votes: dict[str, list[Verdict]], expected: Expected | None, classes: Sequence[str]
) -> tuple[NDArray[np.float64], list[_Reason]]:
    """How much a look at each would teach, and why."""
    unsure = np.array([_unsure(entry) for entry in entries])
    strange = _strange(entries, expected)
    worth = unsure + strange
    why = []
    for row, entry in enumerate(entries):
        said = votes.get(entry.input, [])
        doubted = any(vote.who == VISITOR and vote.said != "right" for vote in said)
        disputed = _undecided(entry, [vote for vote in said if vote.who != VISITOR])
        worth[row] += 2.0 * disputed + 1.0 * doubted + 0.5 * (not entry.known)
        why.append(_why(entry, unsure[row], strange[row], classes, doubted=doubted, disputed=disputed))
    return worth, why


def _unsure(entry: Entry) -> float:
    """0: one class only; 1: two are equally likely."""
    shares = np.sort(np.asarray(entry.probabilities, np.float64))[::-1]
    return float(1 - (shares[0] - shares[1])) if len(shares) > 1 else 1.0 - entry.probability


def _strange(entries: Sequence[Entry], expected: Expected | None) -> NDArray[np.float64]:
    """0: like the reference; 1: as unlike as it gets. 0 where nothing can be said."""
    found = np.zeros(len(entries))
    rows = [row for row, entry in enumerate(entries) if expected is not None and gather.fits(expected, entry)]
    if expected is not None and rows:
        sample = gather.sample([entries[row] for row in rows], len(expected.names))
        low, high = _STRANGE
        found[rows] = np.clip((strangeness(expected, expected.view(sample)) - low) / (high - low), 0, 1)
    return found


def _why(
    entry: Entry, unsure: float, strange: float, classes: Sequence[str], *, doubted: bool, disputed: bool
) -> _Reason:
    if disputed:
        return DISAGREE, _NOBODY
    if doubted:
        return "a visitor says it is wrong", _NOBODY
    if not entry.known:
        return "not known to the model", _NOBODY
    if strange > max(unsure, _TOLD):
        return "unlike what was trained on", _NOBODY
    if unsure > _TOLD and len(classes) == len(entry.probabilities) > 1:
        first, second = np.argsort(-np.asarray(entry.probabilities, np.float64), kind="stable")[:2]
        return "unsure between {a} and {b}", (classes[first], classes[second])
    if unsure > _TOLD:
        return "unsure", _NOBODY
    return "quite sure", _NOBODY


def _candidate(entry: Entry, why: _Reason, worth: float, votes: dict[str, list[Verdict]]) -> Candidate:
    said = tuple(votes.get(entry.input, ()))
    reason, rivals = why
    random = is_random(entry.id) and reason != DISAGREE
    if any(vote.who != VISITOR for vote in said) and reason != DISAGREE:
        reason = "a second look"
    elif random:
        reason = "chosen at random"
    return Candidate(entry=entry, reason=reason, rivals=rivals, random=random, votes=said, worth=worth)


def _folded(ordered: Sequence[Candidate]) -> list[Candidate]:
    """Without those whose input is nearly that of one before; that one says how many stand behind it."""
    if not ordered:
        return []
    width = len(ordered[0].entry.embedding)
    vectors = np.array(
        [one.entry.embedding if len(one.entry.embedding) == width else np.zeros(width) for one in ordered], np.float32
    )
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    alike = vectors @ vectors.T > 1 - NEAR
    leads = np.zeros(len(ordered), dtype=bool)
    first: dict[str, int] = {}
    behind: dict[int, int] = {}
    for row, one in enumerate(ordered):
        near = np.flatnonzero(alike[row] & leads)
        leader = first.get(one.entry.input, int(near[0]) if len(near) else row)
        first.setdefault(one.entry.input, leader)
        leads[row] = leader == row
        behind[leader] = behind.get(leader, -1) + 1
    return [replace(ordered[row], folded=behind[row]) for row in np.flatnonzero(leads).tolist()]


def _in_turn(worth: Sequence[Candidate], chance: Iterable[Candidate]) -> list[Candidate]:
    """One of the random ones after every few of the others."""
    found: list[Candidate] = []
    rest = iter(chance)
    for place, one in enumerate(worth, 1):
        found.append(one)
        if place % (TURN - 1) == 0 and (drawn := next(rest, None)) is not None:
            found.append(drawn)
    return [*found, *rest]


def _digest(answer: str) -> int:
    return int.from_bytes(hashlib.sha256(f"asked/{answer}".encode()).digest()[:8])


def _spelt(name: str, known: Sequence[str]) -> str:
    """The name as it is known already, or as it was typed."""
    return next((other for other in known if alike(other) == alike(name)), plain(name))


def _skips(who: str) -> str:
    return f"skipped:{who}"
