"""Explains a decision: for every binding, whether it matches the caller, whether its role covers the call, and why not.

For people, so it examines everything and caches nothing. The decision itself comes from `Policy.decide`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshproxy.config.globs import compile_glob
from meshproxy.config.ip_blocks import address_of
from meshproxy.config.values import shown
from meshproxy.identity.caller import Caller
from meshproxy.identity.claims import ClaimMatch, match_claim
from meshproxy.identity.iam import is_role
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.conditions import claim_in_words
from meshproxy.policy.decide import Permit, Policy
from meshproxy.policy.rules import Binding, Rule, RuleMatch, Subject, SubjectMatch
from meshproxy.refusal import Reason, Refusal

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers
    from meshproxy.config.ip_blocks import Address
    from meshproxy.identity.caller import Token


@dataclass(frozen=True, slots=True)
class Step:
    """One binding's part in the decision."""

    binding: str
    action: str
    role: str
    applies: bool
    """It allowed, denied or audited the call, or one of its models."""
    is_near: bool
    """It does not apply, and would if only the caller, or only the call, were another."""
    caller: tuple[str, ...]
    """Which subject matches the caller, or why not, for each."""
    call: tuple[str, ...]
    """Which rule matches the call, or why none does, for each model that it names."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision and the way to it."""

    decision: Permit | Refusal
    steps: tuple[Step, ...]
    """One for each binding, in the order of documents."""
    part: Permit | None = None
    """Of a call that is refused: a sidecar answers with what the caller may see of the answer."""


@dataclass(frozen=True, slots=True)
class _Request:
    caller: Caller
    call: Call
    address: Address | None
    headers: Headers | None

    def match(self, subject: Subject) -> SubjectMatch:
        return subject.match(self.caller, self.address, self.headers)


def explain(
    policy: Policy, caller: Caller, call: Call, remote: str = "", headers: Headers | None = None
) -> Explanation:
    """The decision and the part of every binding. Raises nothing: a refusal is a decision. Arguments: see
    `Policy.decide`."""
    decision: Permit | Refusal
    part = None
    try:
        decision = policy.decide(caller, call, remote, headers)
    except Refusal as refusal:
        decision = refusal
        if refusal.reason is Reason.PERMISSION_DENIED:
            part = policy.decide_partly(caller, call, remote, headers)
    request = _Request(caller, call, address_of(remote), headers)
    return Explanation(decision, tuple(_step(policy, binding, request) for binding in policy.bindings), part)


def describe(call: Call) -> str:
    """A call in words, with everything that it names."""
    models = ", ".join(f"model {shown(model.name)}{_told(model)}" for model in call.models)
    return f"{call.verb.value} on {models or 'the server as a whole'}"


def _step(policy: Policy, binding: Binding, request: _Request) -> Step:
    call = request.call
    role, rules = policy.roles[binding.role]
    matches = [request.match(subject) for subject in binding.subjects]
    if SubjectMatch.YES in matches:
        about_caller = [f"subjects[{matches.index(SubjectMatch.YES)}] matches"]
    else:
        about_caller = [
            f"subjects[{place}]: {_why_not(each, request, binding.action)}"
            for place, each in enumerate(binding.subjects)
        ]
    parts: list[ModelRef | None] = [*call.models] if call.models else [None]
    is_allow = binding.action == "allow"
    enough = RuleMatch.YES if is_allow else RuleMatch.UNDETERMINED
    matches_caller = max(matches, default=SubjectMatch.NO) >= (
        SubjectMatch.YES if is_allow else SubjectMatch.UNDETERMINED
    )
    rule_matches = [_best(rules, call.verb, model) for model in parts]
    about_call = [
        (f"{shown(model.name)}: " if model and len(parts) > 1 else "")
        + _about(rule_match, rule, binding.action, call.verb, model)
        for model, (rule_match, rule) in zip(parts, rule_matches, strict=True)
    ]
    matches_call = any(rule_match >= enough for rule_match, _ in rule_matches)
    applies = matches_caller and matches_call
    is_near = matches_caller != matches_call
    return Step(binding.name, binding.action, role, applies, is_near, tuple(about_caller), tuple(about_call))


def _best(rules: tuple[Rule, ...], verb: Verb, model: ModelRef | None) -> tuple[RuleMatch, Rule | None]:
    """The best matching rule, the first of several equally good ones; None if none matches."""
    best: tuple[RuleMatch, Rule | None] = (RuleMatch.NO, None)
    for rule in rules if model is None else [rule for rule in rules if _names(rule, model)]:
        rule_match = rule.match_server(verb) if model is None else rule.match(verb, model)
        if rule_match > best[0]:
            best = (rule_match, rule)
    return best


def _about(rule_match: RuleMatch, rule: Rule | None, action: str, verb: Verb, model: ModelRef | None) -> str:
    if rule is None:
        where = "the server as a whole" if model is None else f"model {shown(model.name)}"
        return f"no rule covers {verb.value} on {where}" + _told(model)
    if rule_match is RuleMatch.YES:
        return f"rules[{rule.index}] matches"
    if model is None:
        undetermined = (
            'does not cover the server as a whole: that requires models ["*"] without versions, labels or signatures'
        )
    else:
        asked: list[tuple[str, object, object]] = [
            ("version", rule.versions, model.version),
            ("label", rule.labels, model.label),
            ("signature", rule.signatures, model.signature),
        ]
        names = " and no ".join(name for name, wanted, given in asked if wanted and given is None)
        undetermined = "covers certain ones only, and " + (
            f"the call names no {names}" if names else f"the answer to {verb.value} shows the others, too"
        )
    return f"rules[{rule.index}] {undetermined}" + _counts(action)


def _told(model: ModelRef | None) -> str:
    """What else the call names that a rule may have ruled out."""
    if model is None:
        return ""
    named_parts = (("version", model.version), ("label", model.label), ("signature", model.signature))
    return "".join(f", {name} {value}" for name, value in named_parts if value is not None)


def _names(rule: Rule, model: ModelRef) -> bool:
    return any(compile_glob(pattern)(model.name) for pattern in rule.models)


def _workloads(subject: Subject) -> str:
    if subject.spiffe_id is not None:
        return subject.spiffe_id
    if subject.namespace is None and subject.service_account is None:
        return f"any of trust domain {subject.trust_domain}"
    account = f"service account {subject.service_account}" if subject.service_account else "any service account"
    namespace = f"namespace {subject.namespace}" if subject.namespace else "any namespace"
    return f"{account} of {namespace} in {subject.trust_domain}"


def _why_not(subject: Subject, request: _Request, action: str) -> str:
    workload, token = request.caller.workload, request.caller.token
    if not subject.matches_workload(workload):
        return f"the workload is {workload.spiffe_id if workload else 'unknown'}, not {_workloads(subject)}"
    holds = subject.conditions.match(request.address, request.headers) if subject.conditions is not None else True
    if holds is False:
        return f"the request does not meet the condition {_conditions(subject)}"
    needs_token = subject.issuer is not None or subject.iam_role is not None
    if needs_token and token is None:
        return "needs a token, and none was sent"
    if needs_token and token is not None and (why_not := _why_not_token(subject, token, action)):
        return why_not
    return (
        f"the condition {_conditions(subject)} cannot be evaluated: the address is not known, or a header occurs more "
        "than once or in another spelling"
    ) + _counts(action)


def _why_not_token(subject: Subject, token: Token, action: str) -> str:
    """Empty if it is the token that the subject names."""
    if subject.issuer is not None and token.issuer != subject.issuer:
        return f"the token is from {token.issuer}, not {subject.issuer}"
    is_ours = subject.iam_role is None or is_role(subject.iam_role, token.iam_role)
    other_role = f"the IAM role is {token.iam_role or 'unknown'}, not {subject.iam_role}"
    if is_ours is False:
        return other_role
    found = [(match_claim(token.claims, path, wanted), claim_in_words(path, wanted)) for path, wanted in subject.claims]
    missing = [words for match, words in found if match is ClaimMatch.NO]
    if missing:
        return f"the token lacks the claim {', '.join(missing)}"
    if is_ours is None:
        return f"{other_role}, which cannot be told apart: the ARN of a session has no path" + _counts(action)
    unclear = [words for match, words in found if match is ClaimMatch.UNCLEAR]
    if not unclear:
        return ""
    return (
        f"the claim {', '.join(unclear)} cannot be evaluated: in this token the path leads to another type, to nothing "
        "below a value, or to two places"
    ) + _counts(action)


def _conditions(subject: Subject) -> str:
    return subject.conditions.words if subject.conditions is not None else ""


def _counts(action: str) -> str:
    return "" if action == "allow" else f", which counts as a match for {action}"
