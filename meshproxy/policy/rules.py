"""Compiled rules and subjects: does a rule match a model of a call, and does a subject match a caller. `decide` finds
the ones to ask."""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from meshproxy.config.globs import compile_glob
from meshproxy.identity.caller import Caller, Token, Workload
from meshproxy.identity.claims import ClaimMatch, ClaimPath, Wanted, match_claim
from meshproxy.identity.iam import is_role
from meshproxy.inference.call import ModelRef, Verb

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers
    from meshproxy.config.ip_blocks import Address
    from meshproxy.policy.conditions import Conditions

SERVER_WIDE = "*"
"""The pattern that a rule must list literally to cover calls about the server as a whole."""


SHOWS_SIGNATURES = frozenset({Verb.METADATA, Verb.STATUS})
"""Verbs whose answer is the same for every signature (get_model_metadata_impl.cc, get_model_status_impl.cc)."""


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
    UNDETERMINED = 2
    """A claim or the role of the token, or a header or the address of the request, cannot be compared with what the
    subject names.
    Never enough to allow; denying and auditing take it as a match."""
    YES = 3


_OF_CLAIMS = {
    ClaimMatch.NO: SubjectMatch.NO,
    ClaimMatch.UNCLEAR: SubjectMatch.UNDETERMINED,
    ClaimMatch.YES: SubjectMatch.YES,
}


_KNOWN = {False: SubjectMatch.NO, None: SubjectMatch.UNDETERMINED, True: SubjectMatch.YES}


class Rule(msgspec.Struct, frozen=True):
    """A rule of a role. Rules are found by their models."""

    index: int
    """Which of the role's rules, from 0."""
    models: tuple[str, ...]
    verbs: frozenset[Verb]
    versions: frozenset[str]
    labels: frozenset[str]
    signatures: frozenset[str]

    def match(self, verb: Verb, model: ModelRef, *, is_part: bool = False) -> RuleMatch:
        """How well it matches a model whose name is among the rule's.

        A status is that of all versions whatever label is asked for, and metadata are those of all signatures: a rule
        for some labels or signatures does not say whether the caller may see the others.

        Args:
            is_part: it is about the part of the metadata that is of `model.signature`.
        """
        if verb not in self.verbs:
            return RuleMatch.NO
        rule_match = RuleMatch.YES
        if self.versions:
            if model.version is None:
                rule_match = RuleMatch.UNDETERMINED
            elif model.version not in self.versions:
                return RuleMatch.NO
        if self.labels:
            if model.label is None or verb is Verb.STATUS:
                rule_match = RuleMatch.UNDETERMINED
            elif model.label not in self.labels:
                return RuleMatch.NO
        if self.signatures:
            if model.signature is None or (verb in SHOWS_SIGNATURES and not (is_part and verb is Verb.METADATA)):
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


class Subject(msgspec.Struct, frozen=True):
    """A subject of a binding. Fields that are None match every caller."""

    spiffe_id: str | None
    """A single workload. The three fields below say nothing more then, and are None."""
    trust_domain: str | None
    namespace: str | None
    """A name or a glob."""
    service_account: str | None
    """A name or a glob."""
    issuer: str | None
    claims: tuple[tuple[ClaimPath, Wanted], ...]
    iam_role: str | None
    conditions: Conditions | None = None
    """What it demands of the request itself."""

    def match(self, caller: Caller, address: Address | None = None, headers: Headers | None = None) -> SubjectMatch:
        """Whether it matches the caller and the request. `address` and `headers`: see `Conditions.match`."""
        match = self.match_caller(caller)
        if self.conditions is None or match is SubjectMatch.NO:
            return match
        condition = _KNOWN[self.conditions.match(address, headers)]
        if match is SubjectMatch.NEEDS_TOKEN and condition is SubjectMatch.UNDETERMINED:
            return SubjectMatch.NO  # a token would not help
        return min(match, condition)

    def match_caller(self, caller: Caller) -> SubjectMatch:
        """Whether it matches the caller, if its conditions hold."""
        if not self.matches_workload(caller.workload):
            return SubjectMatch.NO
        if self.issuer is None and self.iam_role is None:
            return SubjectMatch.YES
        if caller.token is None:
            return SubjectMatch.NEEDS_TOKEN
        return self.match_token(caller.token)

    def matches_workload(self, workload: Workload | None) -> bool:
        """Whether the workload is the one it names, or it names none."""
        if self.spiffe_id is not None:
            return workload is not None and workload.spiffe_id == self.spiffe_id
        if self.trust_domain is None:
            return True
        return (
            workload is not None
            and workload.trust_domain == self.trust_domain
            and _fits(self.namespace, workload.namespace)
            and _fits(self.service_account, workload.service_account)
        )

    def match_token(self, token: Token) -> SubjectMatch:
        """Whether the token has the issuer, the IAM role and every claim that it names."""
        if self.issuer is not None and token.issuer != self.issuer:
            return SubjectMatch.NO
        role = SubjectMatch.YES if self.iam_role is None else _KNOWN[is_role(self.iam_role, token.iam_role)]
        if role is SubjectMatch.NO:
            return role
        matches = (match_claim(token.claims, name, wanted) for name, wanted in self.claims)
        return min(role, _OF_CLAIMS[min(matches, default=ClaimMatch.YES)])


def _fits(pattern: str | None, name: str | None) -> bool:
    return pattern is None or (name is not None and bool(_glob(pattern)(name)))


_glob = lru_cache(maxsize=1_024)(compile_glob)


class Binding(msgspec.Struct, frozen=True, eq=False):
    """A binding of subjects to a role, with an action. Compared by identity."""

    index: int
    """Its place among the documents: of several that decide alike, the first is named."""
    name: str
    action: str
    """`allow`, `deny` or `audit`."""
    role: int
    """The place of its role among the roles."""
    subjects: tuple[Subject, ...]
