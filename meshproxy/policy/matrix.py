"""Who may do what: a row for each subject that a binding allows, a column for each model that a role names. Pure.

A row is decided for a caller that is just what the subject names and no more. Where that is a pattern (`team-*`), the
pattern itself is the name of the caller, and the pattern of a rule is the name of the model: what is allowed to those
is allowed to everything that matches. A `deny` that concerns some of them only is told beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from meshproxy.config.globs import compile_glob, is_literal
from meshproxy.config.ip_blocks import address_of
from meshproxy.identity.caller import Caller, Token, Workload, workload_of
from meshproxy.identity.iam import is_role
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.compare import Verdict, decide
from meshproxy.policy.conditions import claim_in_words
from meshproxy.policy.decide import Policy
from meshproxy.policy.possible import Questions, World
from meshproxy.policy.rules import RuleMatch

if TYPE_CHECKING:
    from meshproxy.policy.conditions import Conditions
    from meshproxy.policy.rules import Rule, Subject

ANY = "*"
OTHER = "(other)"
"""A version, label or signature that the rule does not name."""
_ADDRESSES = ("192.0.2.1:0", "[2001:db8::1]:0")
"""Of documentation (RFC 5737, RFC 3849): for subjects that only say where a caller is not."""


@dataclass(frozen=True, slots=True)
class Who:
    """A subject in words; what it does not name is empty."""

    workload: str
    token: str
    iam_role: str
    conditions: str

    def __str__(self) -> str:
        return " + ".join(filter(None, (self.workload, self.token, self.iam_role, self.conditions))) or "anybody"


@dataclass(frozen=True, slots=True)
class Grant:
    """What one subject may do with one model."""

    who: Who
    model: ModelRef | None
    """None: the server as a whole."""
    verbs: tuple[Verb, ...]
    parts: frozenset[Verb]
    """Those of them whose answer the caller sees in part: the versions of a status, or the signatures of metadata, that
    it may see."""
    by: tuple[str, ...]
    """The bindings that allow it."""
    unless: tuple[str, ...]
    """Bindings that deny it to some of these callers, or if they send something that they need not send."""


def matrix(policy: Policy, models: Sequence[str] = ()) -> list[Grant]:
    """Everything that is allowed to the subjects of bindings, in the order of documents.

    Args:
        models: names or patterns that no rule needs to have, beside those that rules have.
    """
    questions = Questions([policy])
    (asking,) = questions.policies
    refs: list[ModelRef | None] = [*dict.fromkeys((*_refs(policy), *map(ModelRef, models))), None]
    found = []
    seen: set[Who] = set()
    for binding, asked in zip(policy.bindings, asking.bindings, strict=True):
        if binding.action != "allow":
            continue
        for subject, in_questions in zip(binding.subjects, asked.subjects, strict=True):
            who = _who(subject)
            if who not in seen:
                seen.add(who)
                row = _Row(policy, asking, subject, in_questions)
                found += [grant for ref in refs if (grant := row.grant(who, ref)) is not None]
    return found


def _refs(policy: Policy) -> Iterator[ModelRef]:
    """Models as rules name them."""
    for _, rules in policy.roles:
        for rule in rules:
            named = _names(rule.versions), _names(rule.labels), _names(rule.signatures)
            for pattern, (version, label, signature) in product(rule.models, product(*named)):
                yield ModelRef(pattern, version, label, signature)


def _names(names: frozenset[str]) -> list[str | None]:
    """Those of a rule, and any other: a rule that denies some leaves it."""
    return [*sorted(names), OTHER] if names else [None]


class _Row:
    """The decisions about one subject."""

    def __init__(self, policy: Policy, asking: Policy, subject: Subject, in_questions: Subject) -> None:
        self._policy = policy
        self._asking = asking
        self._subject = subject
        self._address = _address(subject.conditions)
        headers = in_questions.conditions.headers if in_questions.conditions is not None else ()
        claims = {str(name): True for name, _ in in_questions.claims}
        token = None
        if (subject.issuer, subject.iam_role) != (None, None):
            token = Token(subject.issuer or ANY, ANY, claims, float("inf"), subject.iam_role)
        self._world = World(
            (), Caller(_workload(subject), token), tuple((rule.name.encode(), b"1") for rule in headers)
        )

    def grant(self, who: Who, model: ModelRef | None) -> Grant | None:
        """None: nothing is allowed."""
        verbs: list[Verb] = []
        parts: set[Verb] = set()
        by: dict[str, None] = {}
        unless: dict[str, None] = {}
        for verb in Verb:
            if model is None and not verb.is_admin:
                continue
            call = Call(verb, (model,) if model is not None else ())
            verdict: Verdict = decide(self._asking, call, self._world, self._address)
            if verdict.permitted:
                verbs.append(verb)
                if verdict.is_part:
                    parts.add(verb)
                by[verdict.rule] = None
                unless.update(dict.fromkeys(self._denials(call)))
        return Grant(who, model, tuple(verbs), frozenset(parts), tuple(by), tuple(unless)) if verbs else None

    def _denials(self, call: Call) -> Iterator[str]:
        for binding in self._policy.bindings:
            _, rules = self._policy.roles[binding.role]
            if (
                binding.action == "deny"
                and any(_may_concern(rule, call) for rule in rules)
                and any(_may_overlap(subject, self._subject) for subject in binding.subjects)
            ):
                yield binding.name


def _may_concern(rule: Rule, call: Call) -> bool:
    if not call.models:
        return rule.match_server(call.verb) is not RuleMatch.NO
    (model,) = call.models
    return rule.match(call.verb, model) is not RuleMatch.NO and any(
        _patterns_meet(pattern, model.name) for pattern in rule.models
    )


def _may_overlap(deny: Subject, allow: Subject) -> bool:
    """Whether a caller can be both. Claims, headers and addresses may be what they are: they are not compared."""
    if None not in (deny.issuer, allow.issuer) and deny.issuer != allow.issuer:
        return False
    if deny.iam_role is not None and allow.iam_role is not None and is_role(deny.iam_role, allow.iam_role) is False:
        return False  # None: they may be the same
    ours, theirs = _parts(deny), _parts(allow)
    return all(
        one is None or other is None or _patterns_meet(one, other) for one, other in zip(ours, theirs, strict=True)
    )


def _parts(subject: Subject) -> tuple[str | None, str | None, str | None, str | None]:
    """Trust domain, namespace and service account, None for any; and the path of another id."""
    if subject.spiffe_id is None:
        return subject.trust_domain, subject.namespace, subject.service_account, None
    workload = workload_of(subject.spiffe_id)
    if workload.namespace is None:
        return workload.trust_domain, "", "", subject.spiffe_id
    return workload.trust_domain, workload.namespace, workload.service_account, None


def _patterns_meet(one: str, other: str) -> bool:
    """Whether a name can match both; of two patterns that is not looked into."""
    if is_literal(one):
        return bool(compile_glob(other)(one))
    return not is_literal(other) or bool(compile_glob(one)(other))


def _workload(subject: Subject) -> Workload | None:
    if subject.spiffe_id is not None:
        return workload_of(subject.spiffe_id)
    if subject.trust_domain is None:
        return None
    namespace, account = subject.namespace or ANY, subject.service_account or ANY
    spiffe_id = f"spiffe://{subject.trust_domain}/ns/{namespace}/sa/{account}"
    return Workload(spiffe_id, subject.trust_domain, namespace, account, float("inf"))


def _address(conditions: Conditions | None) -> str:
    """One from which the subject may call; empty if none was found."""
    if conditions is None or not conditions.has_blocks:
        return ""
    firsts = (block.partition("/")[0] for block in conditions.ip_blocks)
    candidates = [f"[{first}]:0" if ":" in first else f"{first}:0" for first in firsts]
    return next((each for each in (*candidates, *_ADDRESSES) if conditions.match_address(address_of(each))), "")


def _who(subject: Subject) -> Who:
    workload = _workload(subject)
    token = f"token of {subject.issuer}" if subject.issuer is not None else ""
    if subject.claims:
        token += f" ({', '.join(claim_in_words(path, wanted) for path, wanted in subject.claims)})"
    return Who(
        workload.spiffe_id if workload is not None else "",
        token,
        subject.iam_role or "",
        subject.conditions.words if subject.conditions is not None else "",
    )
