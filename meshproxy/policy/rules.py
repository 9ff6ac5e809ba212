"""Compiled rules and subjects: does a rule match a model of a call, and does a subject match a caller. `decide` finds
the ones to ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from meshproxy.identity.caller import Caller, Token, Workload
from meshproxy.inference.call import ModelRef, Verb

SERVER_WIDE = "*"
"""The pattern that a rule must list literally to cover calls about the server as a whole."""


class RuleMatch(IntEnum):
    """How well a rule matches a call. Allowing takes `YES`; denying and auditing take `UNDETERMINED` too: what a call
    does not say counts against the caller."""

    NO = 0
    UNDETERMINED = 1
    """It depends on a version, label or signature that the call does not name."""
    YES = 2


class SubjectMatch(IntEnum):
    """Whether a subject, or the best of a binding's subjects, matches a caller."""

    NO = 0
    NEEDS_TOKEN = 1
    """The workload matches, but the subject names a token and the caller has sent none."""
    YES = 2


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of a role. Rules are found by their models."""

    index: int
    """Which of the role's rules, from 0."""
    models: tuple[str, ...]
    verbs: frozenset[Verb]
    versions: frozenset[str]
    labels: frozenset[str]
    signatures: frozenset[str]

    def match(self, verb: Verb, model: ModelRef) -> RuleMatch:
        """How well it matches a model whose name is among the rule's."""
        if verb not in self.verbs:
            return RuleMatch.NO
        rule_match = RuleMatch.YES
        if self.versions:
            if model.version is None:
                rule_match = RuleMatch.UNDETERMINED
            elif model.version not in self.versions:
                return RuleMatch.NO
        if self.labels:
            if model.label is None:
                rule_match = RuleMatch.UNDETERMINED
            elif model.label not in self.labels:
                return RuleMatch.NO
        if self.signatures:
            if model.signature is None:
                rule_match = RuleMatch.UNDETERMINED
            elif model.signature not in self.signatures:
                return RuleMatch.NO
        return rule_match

    def match_server(self, verb: Verb) -> RuleMatch:
        """How well it matches a call about the server as a whole, which names no model: such a call is about every
        model, also about the few that a narrower rule names."""
        if verb not in self.verbs:
            return RuleMatch.NO
        if SERVER_WIDE in self.models and not (self.versions or self.labels or self.signatures):
            return RuleMatch.YES
        return RuleMatch.UNDETERMINED


@dataclass(frozen=True, slots=True)
class Subject:
    """A subject of a binding. Fields that are None match every caller."""

    spiffe_id: str | None
    namespace: str | None
    """In the trust domain below. Says nothing more where `spiffe_id` is given."""
    trust_domain: str
    issuer: str | None
    claims: tuple[tuple[str, str | int | bool], ...]
    iam_role: str | None

    def match(self, caller: Caller) -> SubjectMatch:
        """Whether it matches the caller."""
        if not self.matches_workload(caller.workload):
            return SubjectMatch.NO
        if self.issuer is None and self.iam_role is None:
            return SubjectMatch.YES
        if caller.token is None:
            return SubjectMatch.NEEDS_TOKEN
        return SubjectMatch.YES if self.matches_token(caller.token) else SubjectMatch.NO

    def matches_workload(self, workload: Workload | None) -> bool:
        """Whether the workload is the one it names, or it names none."""
        if self.spiffe_id is not None:
            return workload is not None and workload.spiffe_id == self.spiffe_id
        if self.namespace is not None:
            return (
                workload is not None
                and workload.namespace == self.namespace
                and workload.trust_domain == self.trust_domain
            )
        return True

    def matches_token(self, token: Token) -> bool:
        """Whether the token has the issuer, every claim and the IAM role that it names."""
        if self.issuer is not None and token.issuer != self.issuer:
            return False
        if self.iam_role is not None and token.iam_role != self.iam_role:
            return False
        return all(has_claim(token.claims, name, wanted) for name, wanted in self.claims)


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """A binding of subjects to a role, with an action. Compared by identity."""

    index: int
    """Its place among the documents: of several that decide alike, the first is named."""
    name: str
    action: str
    """`allow`, `deny` or `audit`."""
    role: int
    """The place of its role among the roles."""
    subjects: tuple[Subject, ...]


def has_claim(claims: Mapping[str, object], name: str, wanted: str | int | bool) -> bool:
    """Whether the claim equals `wanted`, or is a list that contains it.

    `name` is looked up as it is first; only if there is no such claim, its dots select nested objects.
    """
    if name in claims:
        found = claims[name]
    else:
        found = claims
        for step in name.split("."):
            if not isinstance(found, Mapping) or step not in found:
                return False
            found = found[step]
    if isinstance(found, list | tuple):
        return any(_is_same(item, wanted) for item in found)
    return _is_same(found, wanted)


def _is_same(found: object, wanted: str | int | bool) -> bool:
    # True == 1 == 1.0 in Python; in a token they are three different things.
    return type(found) is type(wanted) and found == wanted
