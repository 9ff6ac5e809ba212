"""Which bindings, subjects, roles and rules calls that happened made use of. Pure.

Who used a binding is what the record says. Which of its subjects and rules it was is not recorded: all that fit are
taken as used, so that what is told as unused is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshproxy.config.globs import compile_glob
from meshproxy.identity.iam import is_role
from meshproxy.policy.decide import DEFAULT_DENY, NO_ROLES, NOT_LISTED, SEVERAL, Policy
from meshproxy.policy.rules import Binding, Rule, RuleMatch

if TYPE_CHECKING:
    from meshproxy.policy.compare import Observed
    from meshproxy.policy.rules import Subject

_NO_BINDINGS = (DEFAULT_DENY, NO_ROLES, NOT_LISTED)


@dataclass(frozen=True, slots=True)
class Usage:
    """Calls by what they made use of. What is not in a counter was not used."""

    bindings: Counter[str] = field(default_factory=Counter)
    subjects: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By binding and place."""
    roles: Counter[str] = field(default_factory=Counter)
    rules: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By role and place."""
    gone: Counter[str] = field(default_factory=Counter)
    """Bindings that decided and are not in the policy any more."""
    allowed: int = 0
    denied: int = 0


def count_usage(policy: Policy, observed: Iterable[tuple[Observed, int]]) -> Usage:
    """What these calls, each with how often it happened, made use of."""
    usage = Usage()
    bindings = {binding.name: binding for binding in policy.bindings}
    allowed = denied = 0
    for each, calls in observed:
        if each.recorded is None:
            continue
        allowed += calls if each.recorded.permitted else 0
        denied += 0 if each.recorded.permitted else calls
        decided = [name for name in each.recorded.rule.split(SEVERAL) if name not in _NO_BINDINGS]
        for name in dict.fromkeys([*decided, *each.audits]):
            binding = bindings.get(name)
            if binding is None:
                usage.gone[name] += calls
            else:
                _count(usage, policy, binding, each, calls)
    return Usage(usage.bindings, usage.subjects, usage.roles, usage.rules, usage.gone, allowed, denied)


def _count(usage: Usage, policy: Policy, binding: Binding, observed: Observed, calls: int) -> None:
    role, rules = policy.roles[binding.role]
    usage.bindings[binding.name] += calls
    usage.roles[role] += calls
    for place, subject in enumerate(binding.subjects):
        if _may_match(subject, observed):
            usage.subjects[binding.name, place] += calls
    for rule in rules:
        if _may_cover(rule, observed):
            usage.rules[role, rule.index] += calls


def _may_match(subject: Subject, observed: Observed) -> bool:
    """Whatever the claims, headers and addresses were."""
    token = observed.caller.token
    return subject.matches_workload(observed.caller.workload) and (
        (subject.issuer is None or (token is not None and token.issuer == subject.issuer))
        and (subject.iam_role is None or (token is not None and is_role(subject.iam_role, token.iam_role) is not False))
    )


def _may_cover(rule: Rule, observed: Observed) -> bool:
    call = observed.call
    if not call.models:
        return rule.match_server(call.verb) is not RuleMatch.NO
    return any(
        rule.match(call.verb, model) is not RuleMatch.NO
        for model in call.models
        if any(compile_glob(pattern)(model.name) for pattern in rule.models)
    )
