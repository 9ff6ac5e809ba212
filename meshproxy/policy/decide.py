"""Authorization decisions: look-ups over compiled roles and bindings, and a bounded cache of decisions.

Deny beats allow; audit never decides; what nothing allows is denied. Every model that a call names must be allowed, and
one that is denied denies the call. What cannot be evaluated (`SubjectMatch.UNDETERMINED`) never allows and does deny.
A decision depends only on the caller's SPIFFE id, its token and the call, so it is cached by them: whether certificate
and token are still valid is checked elsewhere, before. Where subjects that matter to these have conditions, the cache
has what the conditions are about (`_Asks`) instead, and decisions by that. A cached decision takes 0.33 us whatever the
number of rules. One for another token of a workload takes 17 us, one for a workload and a call that were not looked at
before 26 us, both with ten rules as with 10,000 over 1,000 models, ten for each; and up to 5 us more where the larger
policy is not in the processor's caches (docs/decisions/figures/decisions.py, on a busy machine).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from meshproxy.config.ip_blocks import address_of
from meshproxy.config.values import shown
from meshproxy.identity.cache_misses import CacheMisses
from meshproxy.identity.caller import Caller, Token
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.policy.conditions import exact_values, reduce_headers
from meshproxy.policy.index import About, Index
from meshproxy.policy.rules import Binding, Rule, RuleMatch, SubjectMatch
from meshproxy.refusal import Reason, Refusal

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers
    from meshproxy.config.ip_blocks import Address
    from meshproxy.policy.index import Entry, RuleMatches

NO_ROLES = "no-roles"
DEFAULT_DENY = "default-deny"
NOT_LISTED = "not-listed"
"""The rule that denies models that the `ModelServer` does not list."""
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
ABOUT_SUBJECTS = 32
"""Subjects, and roles, that a decision looks at: more are looked for each time."""
ABOUT_SUBJECT_BYTES = 50
"""What each takes in the memory of what a decision looks at, which is part of `MEMO_BYTES`."""
MOST_NAMES = 16
"""Versions or signatures in the rules that the caller is bound to that are tried: may they see a part of an answer?"""
MOST_TOLD = 8
"""Conditions that a decision names."""
PARTS = {
    Verb.STATUS: "only the versions that the caller may see",
    Verb.METADATA: "only the signatures that the caller may see",
}
"""Verbs whose answers are lists of which a caller may see a part, and what a `Permit` says then."""
OTHER = "\0other"
"""A version or signature that no rule names."""
_HOLDS = {True: "", None: " (cannot be evaluated)", False: " (does not hold)"}


class Permit(msgspec.Struct, frozen=True):
    """Proof that a call was authorised."""

    rule: str
    """The binding that allowed it; several, separated by commas, where models of one call are allowed by different
    ones. `no-roles` if there is no role at all; empty where no policy applies."""
    audits: tuple[str, ...] = ()
    """The audit bindings that matched."""
    conditions: tuple[str, ...] = ()
    """Which conditions of bindings were met (see `Refusal.conditions`)."""


class _Denial(msgspec.Struct, frozen=True):
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


class _Asks(msgspec.Struct, frozen=True):
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

    def __init__(
        self,
        roles: Sequence[tuple[str, Sequence[Rule]]],
        bindings: Sequence[Binding],
        misses: CacheMisses | None = None,
        *,
        models: frozenset[str] | None = None,
    ) -> None:
        """
        Args:
            roles: name and rules of each role. Bindings refer to them by place.
            bindings: in the order of documents.
            misses: where it counts.
            models: all that may be called; None: any. With a list, what nothing allows is denied also without roles.
        """
        self._misses = misses if misses is not None else CacheMisses()
        self.roles = tuple((name, tuple(rules)) for name, rules in roles)
        self.bindings = tuple(bindings)
        self.models = models
        self._memo: dict[object, Permit | _Denial | _Asks] = {}
        self._memo_tokens: set[Token] = set()
        self._memo_bytes = 0
        self._about_memo: dict[object, About] = {}
        conditions = [
            subject.conditions
            for binding in self.bindings
            for subject in binding.subjects
            if subject.conditions is not None
        ]
        self._has_conditions = bool(conditions)
        self.asks_address = any(each.has_blocks for each in conditions)
        """Whether a decision may depend on the address of the caller."""
        self._header_values = exact_values(conditions)
        self.headers = frozenset(self._header_values)
        """Names of the headers, `spelled`, that a decision may depend on."""
        self._index = Index(self.roles, self.bindings)

    def decide(self, caller: Caller, call: Call, remote: str = "", headers: Headers | None = None) -> Permit:
        """A permit for the call.

        Args:
            remote: `HOST:PORT` of the peer's end of the connection; empty if it is not known.
            headers: of the request, names in lower case; None if they are not known.

        Raises:
            Refusal: `UNAUTHENTICATED`, with a challenge, if no token was sent and one could have made the difference;
                `PERMISSION_DENIED` otherwise. `rule` is the binding that denied, `default-deny` or `not-listed`.
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
            self._misses.decisions += 1
            decision = self._asks(caller, call) or self._decide(caller, call, None, None)
            self._remember(key, caller.token, models, decision)
        if isinstance(decision, Permit):
            return decision
        if isinstance(decision, _Asks):
            decision = self._decide_asked(decision, key, caller, call, remote, headers)
            if isinstance(decision, Permit):
                return decision
        raise decision.refusal()

    def decide_partly(
        self, caller: Caller, call: Call, remote: str = "", headers: Headers | None = None
    ) -> Permit | None:
        """A permit for a call that `decide` refuses, and of whose answer the caller may see a part: whatever `may_see`
        says of it. That is a status of all versions, and metadata. None: no part of it.

        Args:
            remote, headers: as of `decide`.
        """
        if len(call.models) != 1 or call.verb not in PARTS or (call.verb is Verb.STATUS and call.models[0].version):
            return None
        key = ("part", None if caller.workload is None else caller.workload.spiffe_id, caller.token, call)
        asks = self._asks(caller, call)
        decision = self._memo.get(key) if asks is None else None
        if decision is None:
            decision = self._find_part(caller, call, *_facts(asks, remote, headers))
            if asks is None:
                self._remember(key, caller.token, call.models, decision)
        return decision if isinstance(decision, Permit) else None

    def may_see(self, caller: Caller, call: Call, name: str, remote: str = "", headers: Headers | None = None) -> bool:
        """Whether a caller may see the part of an answer that is of the version (of a status), or of the signature (of
        metadata), with this name. The other arguments are those of `decide_partly`."""
        facts = _facts(self._asks(caller, call), remote, headers)
        return isinstance(self._decide_part(caller, call, name, *facts), Permit)

    def _find_part(
        self, caller: Caller, call: Call, address: Address | None, headers: Headers | None
    ) -> Permit | _Denial:
        (model,) = call.models
        allowed = {
            binding.role
            for binding, subject in self.subjects_about(caller, call)
            if binding.action == "allow" and subject.match_caller(caller) is SubjectMatch.YES
        }
        names = {
            name
            for rule in self._index.rules_about(model.name, allowed)
            for name in (rule.versions if call.verb is Verb.STATUS else rule.signatures)
            if rule.match(call.verb, _part(call.verb, model, name), is_part=True) is RuleMatch.YES
        }
        for name in (*sorted(names)[:MOST_NAMES], OTHER):
            decision = self._decide_part(caller, call, name, address, headers)
            if isinstance(decision, Permit):
                # What is audited is the call: its answer may have parts that this one is not about.
                whole = self._decide(caller, call, address, headers)
                return replace(decision, audits=whole.audits, conditions=(PARTS[call.verb],))
        return decision

    def _decide_part(
        self, caller: Caller, call: Call, name: str, address: Address | None, headers: Headers | None
    ) -> Permit | _Denial:
        (model,) = call.models
        about = self._index.about_part(
            caller.workload, self._index.names_of(caller.token), call.verb, _part(call.verb, model, name)
        )
        return self._decide_about(caller, call.verb, about, address, headers)

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
        self._make_room(size)
        if token is not None:
            self._memo_tokens.add(token)
        self._memo_bytes += size
        self._memo[key] = decision

    def _make_room(self, size: int) -> None:
        """So many bytes are about to be added."""
        if self._memo_bytes + size > MEMO_BYTES:
            self._memo.clear()
            self._memo_tokens.clear()
            self._about_memo.clear()
            self._memo_bytes = 0

    def _asks(self, caller: Caller, call: Call) -> _Asks | None:
        """What the decision depends on beside caller and call; None for nothing."""
        if not self._has_conditions:
            return None
        conditions = [
            subject.conditions
            for _, subject in self.subjects_about(caller, call)
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
            self._misses.decisions += 1
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
        for binding, subject in sorted(self.subjects_about(caller, call), key=lambda entry: entry[0].index):
            if subject.conditions is None or subject.match_caller(caller) < SubjectMatch.UNDETERMINED:
                continue
            holds = subject.conditions.match(address, headers)
            if binding.name in named:
                is_told = holds if binding.action == "allow" else holds is not False
            else:
                is_told = decision.rule == DEFAULT_DENY and binding.action == "allow"
            if is_told:
                yield f"{binding.name}: {subject.conditions.words}{_HOLDS[holds]}"

    def _decide(self, caller: Caller, call: Call, address: Address | None, headers: Headers | None) -> Permit | _Denial:
        if not self.roles and self.models is None and not call.verb.is_admin:
            return Permit(NO_ROLES)
        return self._decide_about(caller, call.verb, self._about(caller, call), address, headers)

    def _about(self, caller: Caller, call: Call) -> About:
        """What a decision looks at: for callers with another token that has the same names the same, which is
        remembered."""
        names = self._index.names_of(caller.token)
        key = (None if caller.workload is None else caller.workload.spiffe_id, names, call.verb._value_, call.models)
        about = self._about_memo.get(key)
        if about is None:
            about = self._index.about_call(caller.workload, names, call)
            few = len(about.subjects) + len(names) + sum([len(rule_matches) for _, rule_matches in about.parts])
            text = _text(call.models)
            if few <= ABOUT_SUBJECTS and len(call.models) <= MEMO_MODELS and text <= MEMO_TEXT:
                size = MEMO_ENTRY_BYTES + 3 * text + ABOUT_SUBJECT_BYTES * few
                self._make_room(size)
                self._memo_bytes += size
                self._about_memo[key] = about
        return about

    def _decide_about(
        self, caller: Caller, verb: Verb, about: About, address: Address | None, headers: Headers | None
    ) -> Permit | _Denial:
        parts = about.parts
        if self.models is not None:
            for model, _ in parts:
                if model is not None and model.name not in self.models:
                    return _denied(verb, model, NOT_LISTED, ())
        matches: dict[Binding, SubjectMatch] = {}
        for binding, subject in about.subjects:
            match = subject.match(caller, address, headers)
            if match > matches.get(binding, SubjectMatch.NO):
                matches[binding] = match
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
                        return _denied(verb, model, binding.name, audits)
        allowing = [
            binding for binding in fitting if binding.action == "allow" and matches[binding] is SubjectMatch.YES
        ]
        names: dict[str, None] = {}
        for model, rule_matches in parts:
            found = next((binding for binding in allowing if rule_matches.get(binding.role) is RuleMatch.YES), None)
            if found is None:
                if _token_would_do(matches, (rule_matches for _, rule_matches in parts)):
                    message = f"{_what(verb, model)} requires a token: send authorization: Bearer TOKEN"
                    return _Denial(Reason.UNAUTHENTICATED, message, DEFAULT_DENY, audits)
                return _denied(verb, model, DEFAULT_DENY, audits)
            names[found.name] = None
        return Permit(SEVERAL.join(names), audits)

    def subjects_about(self, caller: Caller, call: Call) -> Sequence[Entry]:
        """Subjects that may matter to a decision, with their bindings: of a role that matches one of the models, and
        about the workload, or about any."""
        return self._about(caller, call).subjects


def _facts(asks: _Asks | None, remote: str, headers: Headers | None) -> tuple[Address | None, Headers | None]:
    """What conditions are about; nothing if there are none."""
    return asks.facts(remote, headers) if asks is not None else (None, None)


def _part(verb: Verb, model: ModelRef, name: str) -> ModelRef:
    """The version (of a status) or the signature (of metadata) with this name."""
    return replace(model, version=name) if verb is Verb.STATUS else replace(model, signature=name)


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
