"""Finds the rules and the subjects that matter to a call of a workload, whatever the number of the others.

Rules are found by the model. Subjects are found by what they name of a workload; those that name none, by the IAM role
or by a claim that must be one text. Both are kept by role: only roles on both sides are looked at, and they are what
the shorter side has in common with the longer one. So a decision costs what concerns both the model and the caller, not
what concerns one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec

from meshproxy.config.globs import Patterns, is_literal
from meshproxy.identity.claims import ClaimPath, is_one_text, texts_of_claim
from meshproxy.identity.iam import without_path
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.rules import Binding, Rule, RuleMatch, Subject

if TYPE_CHECKING:
    from meshproxy.identity.caller import Token, Workload

RuleMatches: TypeAlias = dict[int, RuleMatch]
"""Roles (by index) that match one model of a call, with the best match of their rules."""
Entry: TypeAlias = tuple[Binding, Subject]
Name: TypeAlias = tuple[int, str | None]
"""What subjects are found by that need one text of a token: the place of the claim in the index, and the text; None for
all of them."""
_Claim: TypeAlias = tuple[str | None, ClaimPath | None]
"""An issuer and a claim of its tokens; or (None, None): the IAM role without its path, whatever the issuer."""
_ByRole: TypeAlias = dict[int, tuple[Entry, ...]]
T = TypeVar("T")


class About(msgspec.Struct, frozen=True):
    """What a decision looks at, whatever is in the token of the caller beside its `Name`s."""

    parts: Sequence[tuple[ModelRef | None, RuleMatches]]
    """For each model of the call, or the server as a whole: the roles that match it and have one of the subjects."""
    subjects: Sequence[Entry]
    """Those of bindings to these roles that match the workload, and may match the token."""


class _Asked(msgspec.Struct, frozen=True):
    """Subjects that need one text: of a claim of an issuer's tokens, or the IAM role (see `_Claim`)."""

    issuer: str | None
    path: ClaimPath | None
    by_text: dict[str, _ByRole]
    all: _ByRole
    """All of these, for callers without a token and for what cannot be compared."""

    def texts(self, token: Token) -> Iterable[str | None]:
        """Those that the token has, of the ones that subjects need; None if that is not known."""
        if self.path is None:
            role = None if token.iam_role is None else without_path(token.iam_role)
            return [role] if role in self.by_text else []
        if self.issuer != token.issuer:
            return []
        texts = texts_of_claim(token.claims, self.path)
        return sorted(self.by_text.keys() & texts) if texts is not None else [None]


class Index:
    """Roles and bindings, by what calls and workloads name. Immutable."""

    def __init__(self, roles: Sequence[tuple[str, Sequence[Rule]]], bindings: Sequence[Binding]) -> None:
        rules_found: dict[str, dict[int, list[Rule]]] = {}
        self._server_wide: dict[Verb, RuleMatches] = {verb: {} for verb in Verb}
        for role, (_, rules) in enumerate(roles):
            for rule in rules:
                for pattern in rule.models:
                    rules_found.setdefault(pattern, {}).setdefault(role, []).append(rule)
                for verb in rule.verbs:
                    rule_matches = self._server_wide[verb]
                    rule_matches[role] = max(rule_matches.get(role, RuleMatch.NO), rule.match_server(verb))
        self._rules = Patterns({pattern: _packed(by_role) for pattern, by_role in rules_found.items()})
        by_workload: dict[object, dict[int, list[Entry]]] = {}
        by_text: dict[_Claim, dict[str, dict[int, list[Entry]]]] = {}
        for binding in bindings:
            for subject in binding.subjects:
                needed = _needed_text(subject)
                if needed is not None:
                    claim, text = needed
                    by_role = by_text.setdefault(claim, {}).setdefault(text, {})
                else:
                    by_role = by_workload.setdefault(_named_workloads(subject), {})
                by_role.setdefault(binding.role, []).append((binding, subject))
        self._subjects = {named: _packed(by_role) for named, by_role in by_workload.items()}
        self._asked = [_asked(*claim, texts) for claim, texts in by_text.items()]
        self._without_token: tuple[Name, ...] = tuple((place, None) for place in range(len(self._asked)))

    def names_of(self, token: Token | None) -> tuple[Name, ...]:
        """What a decision looks at depends on these of a token. Empty if no subject needs one text."""
        if token is None:
            return self._without_token
        return tuple((place, text) for place, asked in enumerate(self._asked) for text in asked.texts(token))

    def about_call(self, workload: Workload | None, names: Iterable[Name], call: Call) -> About:
        """What matters to a call.

        Args:
            workload: None if none is proven.
            names: `names_of` the token.
        """
        if call.models:
            return self._about(workload, names, call.verb, call.models)
        subjects = self._of_caller(workload, names)
        known = self._server_wide[call.verb]
        rule_matches = {role: known[role] for role in _roles_on_both_sides(subjects, [known])}
        return _joined(workload, subjects, [(None, rule_matches)])

    def about_part(self, workload: Workload | None, names: Iterable[Name], verb: Verb, part: ModelRef) -> About:
        """What matters to the part of an answer about one model: see `Rule.match`. Arguments: see `about_call`."""
        return self._about(workload, names, verb, [part], is_part=True)

    def rules_about(self, model: str, roles: set[int]) -> Iterator[Rule]:
        """The rules of these roles about a model."""
        for by_role in self._rules.about(model):
            for role in by_role.keys() & roles:
                yield from by_role[role]

    def _about(
        self,
        workload: Workload | None,
        names: Iterable[Name],
        verb: Verb,
        models: Iterable[ModelRef],
        *,
        is_part: bool = False,
    ) -> About:
        subjects = self._of_caller(workload, names)
        parts = []
        for model in models:
            rule_matches: RuleMatches = {}
            rules = self._rules.about(model.name)
            for role in _roles_on_both_sides(subjects, rules):
                for by_role in rules:
                    for rule in by_role.get(role, ()):
                        rule_match = rule.match(verb, model, is_part=is_part)
                        if rule_match > rule_matches.get(role, RuleMatch.NO):
                            rule_matches[role] = rule_match
            parts.append((model, rule_matches))
        return _joined(workload, subjects, parts)

    def _of_caller(self, workload: Workload | None, names: Iterable[Name]) -> list[_ByRole]:
        """Subjects that may be about a caller, by role."""
        found = [self._subjects[named] for named in _names_of(workload) if named in self._subjects]
        for place, text in names:
            asked = self._asked[place]
            found.append(asked.all if text is None else asked.by_text[text])
        return found


def _packed(by_role: Mapping[int, list[T]]) -> dict[int, tuple[T, ...]]:
    """Tuples take 40 bytes less, of which there are as many as rules and subjects."""
    return {role: tuple(items) for role, items in by_role.items()}


def _asked(issuer: str | None, path: ClaimPath | None, texts: Mapping[str, Mapping[int, list[Entry]]]) -> _Asked:
    together: dict[int, list[Entry]] = {}
    for by_role in texts.values():
        for role, entries in by_role.items():
            together.setdefault(role, []).extend(entries)
    return _Asked(issuer, path, {text: _packed(by_role) for text, by_role in texts.items()}, _packed(together))


def _roles_on_both_sides(subjects: Sequence[_ByRole], rules: Sequence[Mapping[int, object]]) -> set[int]:
    return {role for ours in subjects for theirs in rules for role in ours.keys() & theirs.keys()}


def _joined(
    workload: Workload | None, subjects: Sequence[_ByRole], parts: Sequence[tuple[ModelRef | None, RuleMatches]]
) -> About:
    roles = {role for _, rule_matches in parts for role in rule_matches}
    return About(
        parts,
        [
            entry
            for role in roles
            for by_role in subjects
            for entry in by_role.get(role, ())
            if entry[1].matches_workload(workload)
        ],
    )


def _needed_text(subject: Subject) -> tuple[_Claim, str] | None:
    """Which text it must be; None if the subject needs no such text, or names a workload."""
    if (subject.spiffe_id, subject.trust_domain) != (None, None):
        return None
    if subject.iam_role is not None:
        return (None, None), without_path(subject.iam_role)
    if subject.issuer is None:
        return None
    for path, wanted in subject.claims:
        if isinstance(wanted, str) and is_one_text(path, wanted):
            return (subject.issuer, path), wanted
    return None


def _named_workloads(subject: Subject) -> object:
    """What a subject is found by: the most precise name that it has for workloads; None if it is about any."""
    if subject.spiffe_id is not None or subject.trust_domain is None:
        return subject.spiffe_id
    if subject.namespace is not None and is_literal(subject.namespace):
        return subject.trust_domain, "namespace", subject.namespace
    if subject.service_account is not None and is_literal(subject.service_account):
        return subject.trust_domain, "service account", subject.service_account
    return subject.trust_domain, "", None


def _names_of(workload: Workload | None) -> tuple[object, ...]:
    """Everything that a subject about this workload may be found by."""
    if workload is None:
        return (None,)
    domain = workload.trust_domain
    return (
        None,
        workload.spiffe_id,
        (domain, "namespace", workload.namespace),
        (domain, "service account", workload.service_account),
        (domain, "", None),
    )
