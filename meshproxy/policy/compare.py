"""Two policies compared by calls that happened: who would gain access, and who would lose it.

Pure. Calls come from lines of logs (`telemetry/call_lines.py`), or from what sidecars report; equal ones are one
`Observed` with a count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from msgspec.structs import replace

from meshproxy.identity.claims import ClaimMatch
from meshproxy.policy.decide import Permit, Policy
from meshproxy.policy.possible import MOST_WORLDS, Questions
from meshproxy.refusal import Reason, Refusal

if TYPE_CHECKING:
    from meshproxy.identity.caller import Caller
    from meshproxy.inference.call import Call
    from meshproxy.policy.possible import World


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision, as far as a comparison goes."""

    permitted: bool
    rule: str
    """The binding that decided, as in `Permit.rule` and `Refusal.rule`."""
    is_part: bool = field(default=False, compare=False)
    """Permitted is only what the caller may see of the answer. Records do not tell it."""

    def __str__(self) -> str:
        return f"{'allowed' if self.permitted else 'denied'}{' in part' if self.is_part else ''} by {self.rule}"


@dataclass(frozen=True, slots=True)
class Observed:
    """A caller and a call that happened."""

    caller: Caller
    """Its token without claims: they are not known. None: it sent none."""
    call: Call
    is_signature_known: bool = True
    """Otherwise it may be any: the access log does not tell it."""
    address: str = ""
    """`HOST:PORT` of the peer's end of the connection; empty if it is not known."""
    recorded: Verdict | None = None
    """What was decided then; None if that is not known."""
    audits: tuple[str, ...] = ()
    """The audit bindings that matched then."""


class Outcome(Enum):
    """What another policy would change for a call."""

    SAME = "same"
    GAINS = "gains"
    LOSES = "loses"
    MAY_GAIN = "may gain"
    MAY_LOSE = "may lose"
    UNKNOWN = "unknown"
    """It may gain or lose, or it depends on too much that is not known."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a new policy does to one caller and call."""

    observed: Observed
    calls: int
    """How often it happened."""
    outcome: Outcome
    old: Verdict | None
    """None: the verdict depends on what is not known."""
    new: Verdict | None
    depends: tuple[str, ...] = ()
    """Claims and headers that make the difference, in words; empty where the outcome is certain."""
    is_contradicted: bool = False
    """The record says something that the old policy never decides: another one was in force then."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All calls under both policies."""

    changes: tuple[Change, ...]
    """Those that are not `SAME`: certain ones first, the most frequent first."""
    counts: dict[Outcome, int]
    """Calls by outcome; every outcome is there."""
    contradicted: int
    """Calls that were decided otherwise than the old policy decides."""


def compare(old: Policy, new: Policy, observed: Iterable[tuple[Observed, int]]) -> Comparison:
    """Decide every call under both policies.

    Args:
        observed: calls, and how often each happened. Equal ones are best given once.
    """
    questions = Questions([old, new])
    counts = dict.fromkeys(Outcome, 0)
    changes = []
    contradicted = 0
    for each, calls in observed:
        change = _change(questions, each, calls)
        counts[change.outcome] += calls
        contradicted += calls if change.is_contradicted else 0
        if change.outcome is not Outcome.SAME:
            changes.append(change)
    changes.sort(key=lambda change: (_ORDER.index(change.outcome), -change.calls))
    return Comparison(tuple(changes), counts, contradicted)


_ORDER = (Outcome.LOSES, Outcome.GAINS, Outcome.MAY_LOSE, Outcome.MAY_GAIN, Outcome.UNKNOWN, Outcome.SAME)


def _change(questions: Questions, observed: Observed, calls: int) -> Change:
    old, new = questions.policies
    found: list[_Case] = []
    for call in _variants(observed, questions.policies):
        about = questions.about(observed.caller, call, observed.address)
        worlds = questions.worlds(observed.caller, about)
        if worlds is None:
            why = (f"more than {MOST_WORLDS:,} combinations of claims and headers",)
            return Change(observed, calls, Outcome.UNKNOWN, None, None, why)
        words = tuple(question.words for question in about)
        for world in worlds:
            pair = decide(old, call, world, observed.address), decide(new, call, world, observed.address)
            found.append(_Case(call, words, world.answers, *pair))
    as_recorded = [case for case in found if observed.recorded in (None, case.old)]
    possible = as_recorded or found
    outcome = _outcome(possible)
    is_certain = outcome in (Outcome.SAME, Outcome.GAINS, Outcome.LOSES)
    return Change(
        observed,
        calls,
        outcome,
        _single([case.old for case in possible]),
        _single([case.new for case in possible]),
        () if is_certain else _depends(possible),
        not as_recorded,
    )


@dataclass(frozen=True, slots=True)
class _Case:
    """One way in which everything that is not known may have been."""

    call: Call
    words: tuple[str, ...]
    """Of the questions."""
    answers: tuple[ClaimMatch, ...]
    old: Verdict
    new: Verdict

    @property
    def step(self) -> int:
        """1 for a gain, -1 for a loss."""
        return self.new.permitted - self.old.permitted


def _depends(cases: list[_Case]) -> tuple[str, ...]:
    """The questions of which one answer alone makes a difference, if the others stay."""
    found: dict[str, None] = {}
    for call in {case.call: None for case in cases}:
        known = {case.answers: case for case in cases if case.call == call}
        for case in known.values():
            for place, words in enumerate(case.words):
                for answer in ClaimMatch:
                    other = known.get((*case.answers[:place], answer, *case.answers[place + 1 :]))
                    if other is not None and other.step != case.step:
                        found[words] = None
    steps: dict[Call, set[int]] = {}
    for case in cases:
        steps.setdefault(case.call, set()).add(case.step)
    if len(set(map(frozenset, steps.values()))) > 1:
        found["the signature of the call"] = None
    return tuple(found)


def _variants(observed: Observed, policies: Sequence[Policy]) -> Iterator[Call]:
    """The call with every signature that makes a difference, and one that no rule names."""
    call = observed.call
    yield call
    if observed.is_signature_known or not call.verb.is_versioned:
        return
    rules = [rule for policy in policies for _, rules in policy.roles for rule in rules if call.verb in rule.verbs]
    named = {signature for rule in rules for signature in rule.signatures}
    for signature in sorted(named):
        yield replace(call, models=tuple(replace(model, signature=signature) for model in call.models))


def _outcome(cases: list[_Case]) -> Outcome:
    steps = {case.step for case in cases}
    if {1, -1} <= steps:
        return Outcome.UNKNOWN
    if 1 in steps:
        return Outcome.GAINS if len(steps) == 1 else Outcome.MAY_GAIN
    if -1 in steps:
        return Outcome.LOSES if len(steps) == 1 else Outcome.MAY_LOSE
    return Outcome.SAME


def _single(verdicts: list[Verdict]) -> Verdict | None:
    return verdicts[0] if len(set(verdicts)) == 1 else None


def decide(policy: Policy, call: Call, world: World, address: str) -> Verdict:
    """What a policy of `Questions` decides about a call in one world. A part of the answer is as good as all of it."""
    permit: Permit | None
    is_part = False
    try:
        permit = policy.decide(world.caller, call, address, world.headers)
    except Refusal as refusal:
        permit = None
        if refusal.reason is Reason.PERMISSION_DENIED:
            permit = policy.decide_partly(world.caller, call, address, world.headers)
        if permit is None:
            return Verdict(False, refusal.rule or "")
        is_part = True
    return Verdict(True, permit.rule, is_part)
