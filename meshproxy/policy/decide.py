"""Authorization decisions: look-ups over compiled roles and bindings, and a bounded cache of decisions.

Deny beats allow; audit never decides; what nothing allows is denied. Every model that a call names must be allowed, and
one that is denied denies the call. What cannot be evaluated (`SubjectMatch.UNDETERMINED`) never allows and does deny.
A decision depends only on the caller's SPIFFE id, its token and the call, so it is cached by them: whether certificate
and token are still valid is checked elsewhere, before. Where subjects that matter to these have conditions, the cache
has what the conditions are about (`_Asks`) instead, and decisions by that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from meshproxy.config.globs import compile_glob, is_literal
from meshproxy.config.ip_blocks import address_of
from meshproxy.config.values import shown
from meshproxy.identity.caller import Caller, Token, Workload
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.conditions import exact_values, reduce_headers
from meshproxy.policy.rules import Binding, Rule, RuleMatch, Subject, SubjectMatch
from meshproxy.refusal import Reason, Refusal

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers
    from meshproxy.config.ip_blocks import Address

NO_ROLES = "no-roles"
DEFAULT_DENY = "default-deny"
SEVERAL = ", "
"""Between the names of bindings that allow the models of one call together. No name contains it."""
CHALLENGE = 'Bearer realm="meshproxy"'
MEMO_BYTES = 16_777_216
"""Memory that decisions take together, and the tokens that they are about: 1,500 tokens with 20 short claims, or 30,000
decisions about one."""
MEMO_ENTRY_BYTES = 500
"""What one takes, without the names in it."""
MEMO_PART_BYTES = 200
"""What a header in the key of one takes, or a condition that it names, without their texts."""
MEMO_MODELS = 8
MEMO_TEXT = 512
"""Names and headers come from callers, who may send long ones and many: a call with more models, or longer names
together, is not cached, nor one with longer headers that a condition is about."""
MOST_TOLD = 8
"""Conditions that a decision names."""
_HOLDS = {True: "", None: " (cannot be evaluated)", False: " (does not hold)"}

RuleMatches: TypeAlias = dict[int, RuleMatch]
"""Roles (by index) that match one model of a call, with the best match of their rules."""


@dataclass(frozen=True, slots=True)
class Permit:
    """Proof that a call was authorised."""

    rule: str
    """The binding that allowed it; several, separated by commas, where models of one call are allowed by different
    ones. `no-roles` if there is no role at all; empty where no policy applies."""
    audits: tuple[str, ...] = ()
    """The audit bindings that matched."""
    conditions: tuple[str, ...] = ()
    """Which conditions of bindings were met (see `Refusal.conditions`)."""


@dataclass(frozen=True, slots=True)
class _Denial:
    """What a `Refusal` is made of. An exception must not be raised twice: each time adds to its traceback."""

    reason: Reason
    message: str
    rule: str
    audits: tuple[str, ...]
    conditions: tuple[str, ...] = ()

    def refusal(self) -> Refusal:
        challenge = CHALLENGE if self.reason is Reason.UNAUTHENTICATED else None
        return Refusal(
            self.reason,
            self.message,
            challenge=challenge,
            rule=self.rule,
            audits=self.audits,
            conditions=self.conditions,
        )


@dataclass(frozen=True, slots=True)
class _Asks:
    """What of a request the conditions of some subjects are about."""

    is_about_address: bool
    headers: frozenset[bytes]
    """Their names, `spelled`."""
    values: Mapping[bytes, frozenset[bytes] | None]
    """Of each header that any condition is about: see `exact_values`."""

    def facts(self, remote: str, headers: Headers | None) -> tuple[Address | None, Headers | None]:
        """The part of a request that decides: requests that are equal in it are decided alike."""
        if headers is not None:
            headers = reduce_headers(headers, self.headers, self.values)
        return address_of(remote) if self.is_about_address else None, headers


class Policy:
    """Roles and bindings, ready to decide. Made by `compile_policy`; immutable but for its cache."""

    def __init__(self, roles: Sequence[tuple[str, Sequence[Rule]]], bindings: Sequence[Binding]) -> None:
        """
        Args:
            roles: name and rules of each role. Bindings refer to them by place.
            bindings: in the order of documents.
        """
        self.roles = tuple((name, tuple(rules)) for name, rules in roles)
        self.bindings = tuple(bindings)
        self._memo: dict[object, Permit | _Denial | _Asks] = {}
        self._memo_tokens: set[Token] = set()
        self._memo_bytes = 0
        conditions = [
            subject.conditions
            for binding in self.bindings
            for subject in binding.subjects
            if subject.conditions is not None
        ]
        self._has_conditions = bool(conditions)
        self._header_values = exact_values(conditions)
        self.headers = frozenset(self._header_values)
        """Names of the headers, `spelled`, that a decision may depend on."""
        # Rules by what they are found by: a name, or a glob. Each different glob is matched once for a name.
        self._by_name: dict[str, list[tuple[int, Rule]]] = {}
        by_glob: dict[str, list[tuple[int, Rule]]] = {}
        self._server_wide: dict[Verb, RuleMatches] = {verb: {} for verb in Verb}
        for role, (_, rules) in enumerate(self.roles):
            for rule in rules:
                for pattern in rule.models:
                    found = self._by_name if is_literal(pattern) else by_glob
                    found.setdefault(pattern, []).append((role, rule))
                for verb in rule.verbs:
                    rule_matches = self._server_wide[verb]
                    rule_matches[role] = max(rule_matches.get(role, RuleMatch.NO), rule.match_server(verb))
        self._by_glob = [(compile_glob(pattern), entries) for pattern, entries in by_glob.items()]
        # Subjects are indexed by what they name of a workload and by their role: the shorter index is used.
        self._by_workload: dict[object, list[tuple[Binding, Subject]]] = {}
        self._by_role: list[list[tuple[Binding, Subject]]] = [[] for _ in self.roles]
        for binding in self.bindings:
            for subject in binding.subjects:
                entry = (binding, subject)
                self._by_role[binding.role].append(entry)
                self._by_workload.setdefault(_named_workloads(subject), []).append(entry)

    def decide(self, caller: Caller, call: Call, remote: str = "", headers: Headers | None = None) -> Permit:
        """A permit for the call.

        Args:
            remote: `HOST:PORT` of the peer's end of the connection; empty if it is not known.
            headers: of the request, names in lower case; None if they are not known.

        Raises:
            Refusal: `UNAUTHENTICATED`, with a challenge, if no token was sent and one could have made the difference;
                `PERMISSION_DENIED` otherwise. `rule` is the binding that denied, or `default-deny`.
        """
        workload = caller.workload
        spiffe_id = None if workload is None else workload.spiffe_id
        models = call.models
        # The generated hash of a Call costs 0.2 us, this tuple with it and the look-up 0.15 us together: its parts are
        # strings that remember their hash. Tokens are compared by identity; the memo holds them, so none is reused.
        key: object
        if len(models) == 1:
            model = models[0]
            key = (
                spiffe_id,
                caller.token,
                call.verb._value_,
                model.name,
                model.version,
                model.label,
                model.signature,
            )
        else:
            key = (spiffe_id, caller.token, call)
        decision = self._memo.get(key)
        if decision is None:
            decision = self._asks(caller, call) or self._decide(caller, call, None, None)
            self._remember(key, caller.token, models, decision)
        if isinstance(decision, Permit):
            return decision
        if isinstance(decision, _Asks):
            decision = self._decide_asked(decision, key, caller, call, remote, headers)
            if isinstance(decision, Permit):
                return decision
        raise decision.refusal()

    def _remember(
        self,
        key: object,
        token: Token | None,
        models: tuple[ModelRef, ...],
        decision: Permit | _Denial | _Asks,
        headers: Headers = (),
    ) -> None:
        text = _text(models) + sum([len(name) + len(value) for name, value in headers])
        if len(models) > MEMO_MODELS or text > MEMO_TEXT:
            return
        size = MEMO_ENTRY_BYTES + 3 * text  # in the key, in the message of a denial, and two bytes for a character
        size += MEMO_PART_BYTES * len(headers)
        if not isinstance(decision, _Asks):
            size += sum([MEMO_PART_BYTES + len(condition) for condition in decision.conditions])
        if token is not None and token not in self._memo_tokens:
            size += token.size
        if self._memo_bytes + size > MEMO_BYTES:
            self._memo.clear()
            self._memo_tokens.clear()
            self._memo_bytes = 0
        if token is not None:
            self._memo_tokens.add(token)
        self._memo_bytes += size
        self._memo[key] = decision

    def _asks(self, caller: Caller, call: Call) -> _Asks | None:
        """What the decision depends on beside caller and call; None for nothing."""
        if not self._has_conditions:
            return None
        roles = {role for _, rule_matches in self._parts(call) for role in rule_matches}
        conditions = [
            subject.conditions
            for _, subject in self._subjects_about(caller, roles)
            if subject.conditions is not None and subject.match_caller(caller) is not SubjectMatch.NO
        ]
        if not conditions:
            return None
        return _Asks(
            any(each.has_blocks for each in conditions),
            frozenset(rule.spelled for each in conditions for rule in each.headers),
            self._header_values,
        )

    def _decide_asked(
        self, asks: _Asks, key: object, caller: Caller, call: Call, remote: str, headers: Headers | None
    ) -> Permit | _Denial:
        address, headers = asks.facts(remote, headers)
        key = (key, address, headers)
        decision = self._memo.get(key)
        if decision is None:
            decision = self._decide(caller, call, address, headers)
            told = islice(self._tell(decision, caller, call, address, headers), MOST_TOLD)
            decision = replace(decision, conditions=tuple(dict.fromkeys(told)))
            self._remember(key, caller.token, call.models, decision, headers or ())
        assert not isinstance(decision, _Asks)
        return decision

    def _tell(
        self,
        decision: Permit | _Denial,
        caller: Caller,
        call: Call,
        address: Address | None,
        headers: Headers | None,
    ) -> Iterator[str]:
        """The conditions that made the difference: of bindings that decided or audited, or those that kept bindings
        from allowing what was denied since nothing allowed it."""
        named = {*decision.rule.split(SEVERAL), *decision.audits}
        roles = {role for _, rule_matches in self._parts(call) for role in rule_matches}
        for binding, subject in sorted(self._subjects_about(caller, roles), key=lambda entry: entry[0].index):
            if subject.conditions is None or subject.match_caller(caller) < SubjectMatch.UNDETERMINED:
                continue
            holds = subject.conditions.match(address, headers)
            if binding.name in named:
                is_told = holds if binding.action == "allow" else holds is not False
            else:
                is_told = decision.rule == DEFAULT_DENY and binding.action == "allow"
            if is_told:
                yield f"{binding.name}: {subject.conditions.words}{_HOLDS[holds]}"

    def _parts(self, call: Call) -> list[tuple[ModelRef | None, RuleMatches]]:
        """The roles that match each model of a call, or the server as a whole."""
        if call.models:
            return [(model, self._rule_matches(call.verb, model)) for model in call.models]
        return [(None, self._server_wide[call.verb])]

    def _decide(self, caller: Caller, call: Call, address: Address | None, headers: Headers | None) -> Permit | _Denial:
        if not self.roles and not call.verb.is_admin:
            return Permit(NO_ROLES)
        parts = self._parts(call)
        roles = {role for _, rule_matches in parts for role in rule_matches}
        matches = self._matches(caller, roles, address, headers)
        fitting = sorted(
            (binding for binding, found in matches.items() if found >= SubjectMatch.UNDETERMINED), key=_place
        )
        audits = tuple(
            binding.name
            for binding in fitting
            if binding.action == "audit" and any(binding.role in rule_matches for _, rule_matches in parts)
        )
        for binding in fitting:
            if binding.action == "deny":
                for model, rule_matches in parts:
                    if binding.role in rule_matches:
                        return _denied(call.verb, model, binding.name, audits)
        allowing = [
            binding for binding in fitting if binding.action == "allow" and matches[binding] is SubjectMatch.YES
        ]
        names: dict[str, None] = {}
        for model, rule_matches in parts:
            found = next((binding for binding in allowing if rule_matches.get(binding.role) is RuleMatch.YES), None)
            if found is None:
                if _token_would_do(matches, (rule_matches for _, rule_matches in parts)):
                    message = f"{_what(call.verb, model)} requires a token: send authorization: Bearer TOKEN"
                    return _Denial(Reason.UNAUTHENTICATED, message, DEFAULT_DENY, audits)
                return _denied(call.verb, model, DEFAULT_DENY, audits)
            names[found.name] = None
        return Permit(SEVERAL.join(names), audits)

    def _rule_matches(self, verb: Verb, model: ModelRef) -> RuleMatches:
        rule_matches: RuleMatches = {}
        found = [self._by_name.get(model.name, ())]
        found += [entries for matches, entries in self._by_glob if matches(model.name)]
        for entries in found:
            for role, rule in entries:
                rule_match = rule.match(verb, model)
                if rule_match > rule_matches.get(role, RuleMatch.NO):
                    rule_matches[role] = rule_match
        return rule_matches

    def _matches(
        self, caller: Caller, roles: Collection[int], address: Address | None, headers: Headers | None
    ) -> Mapping[Binding, SubjectMatch]:
        """The bindings to one of the roles whose subjects match the caller, or would with a token."""
        matches: dict[Binding, SubjectMatch] = {}
        for binding, subject in self._subjects_about(caller, roles):
            match = subject.match(caller, address, headers)
            if match > matches.get(binding, SubjectMatch.NO):
                matches[binding] = match
        return matches

    def _subjects_about(self, caller: Caller, roles: Collection[int]) -> Iterator[tuple[Binding, Subject]]:
        """Subjects that may be about the workload of the caller, of the bindings to one of the roles."""
        found: list[Sequence[tuple[Binding, Subject]]]
        found = [self._by_workload.get(named, ()) for named in _names_of(caller.workload)]
        if sum(map(len, found)) > sum(len(self._by_role[role]) for role in roles):
            found = [self._by_role[role] for role in roles]
        for entries in found:
            for entry in entries:
                if entry[0].role in roles:
                    yield entry


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


def _text(models: tuple[ModelRef, ...]) -> int:
    """Characters of all their names."""
    return sum(
        len(model.name) + len(model.version or "") + len(model.label or "") + len(model.signature or "")
        for model in models
    )


def _token_would_do(matches: Mapping[Binding, SubjectMatch], parts: Iterable[RuleMatches]) -> bool:
    """Whether bindings that need a token, which the caller has not sent, would allow every model."""
    allowing = [
        binding
        for binding, found in matches.items()
        if binding.action == "allow" and found is not SubjectMatch.UNDETERMINED
    ]
    return all(any(rule_matches.get(binding.role) is RuleMatch.YES for binding in allowing) for rule_matches in parts)


def _denied(verb: Verb, model: ModelRef | None, rule: str, audits: tuple[str, ...]) -> _Denial:
    return _Denial(Reason.PERMISSION_DENIED, f"{_what(verb, model)} is not permitted", rule, audits)


def _what(verb: Verb, model: ModelRef | None) -> str:
    """The call in words that tell its sender nothing new."""
    if model is None:
        return f"{verb.value} on the server as a whole"
    detail = ""
    if model.version is not None:
        version = model.version
        detail = f", version {version if version.isascii() and version.isdigit() else shown(version)}"
    elif model.label is not None:
        detail = f", label {shown(model.label)}"
    return f"{verb.value} on model {shown(model.name)}{detail}"


def _place(binding: Binding) -> int:
    return binding.index
