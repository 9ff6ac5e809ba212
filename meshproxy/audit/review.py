"""An access review: who may call which model, who did, who was denied, and what changed, in a period of a trail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from meshproxy.audit.lines import Decision, Kind
from meshproxy.audit.sentences import models

if TYPE_CHECKING:
    from collections.abc import Hashable

    from meshproxy.audit.lines import Record
    from meshproxy.config.policy_set import PolicySet

MOST_ROWS = 5_000
"""Of one table. Callers choose names, so that there may be any number: further ones are counted together."""
OTHERS = "(others)"
CHANGES = frozenset(
    {
        Kind.DOCUMENTS_LOADED,
        Kind.DOCUMENT_CREATED,
        Kind.DOCUMENT_CHANGED,
        Kind.DOCUMENT_DELETED,
        Kind.DOCUMENTS_REJECTED,
        Kind.AUTHORITY_CHANGED,
        Kind.ROLLOUT_CHANGED,
        Kind.ROLLOUT_REFUSED,
    }
)
MOST_CHANGES = 10_000


class Grant(NamedTuple):
    """A binding, in words."""

    binding: str
    action: str
    subjects: tuple[str, ...]
    role: str
    rules: tuple[str, ...]


class Use(NamedTuple):
    """What a row of calls has in common."""

    model: str
    caller: str
    verb: str
    rule: str
    reason: str = ""


@dataclass
class Span:
    """How often, and from when to when."""

    count: int = 0
    first: float = float("inf")
    last: float = float("-inf")

    def add(self, at: float) -> None:
        self.count += 1
        self.first, self.last = min(self.first, at), max(self.last, at)


@dataclass
class Review:
    """What the lines of a period say."""

    lines: int = 0
    allowed: dict[Use, Span] = field(default_factory=dict)
    denied: dict[Use, Span] = field(default_factory=dict)
    admin: dict[Use, Span] = field(default_factory=dict)
    identities: dict[tuple[str, str], Span] = field(default_factory=dict)
    """By identity and what became of the request."""
    logins: dict[tuple[str, str], Span] = field(default_factory=dict)
    """To the page of the mesh, by person and what became of it."""
    changes: list[Record] = field(default_factory=list)
    """The first `MOST_CHANGES`."""
    change_count: int = 0
    dropped: int = 0
    """Events without a line, as far as the writers say."""
    kinds: Counter[Kind] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        """Count one line."""
        self.lines += 1
        self.kinds[record.kind] += 1
        if record.decision is not None:
            self._add_call(record)
        elif record.kind in CHANGES:
            self.change_count += 1
            if len(self.changes) < MOST_CHANGES:
                self.changes.append(record)
        elif record.kind in (Kind.CERTIFICATE_ISSUED, Kind.CERTIFICATE_REFUSED):
            result = "issued" if record.kind is Kind.CERTIFICATE_ISSUED else f"refused: {record.reason}"
            _add(self.identities, (record.subject or "unknown", result), (OTHERS, ""), record.time)
        elif record.kind in (Kind.LOGIN, Kind.LOGIN_REFUSED):
            who = str(record.caller) if record.caller.subject is not None else "unknown"
            _add(self.logins, (who, record.reason or "let in"), (OTHERS, ""), record.time)
        elif record.kind is Kind.DROPPED:
            self.dropped += record.events

    def _add_call(self, record: Record) -> None:
        model = ", ".join(sorted({model.name for model in record.models})) or models(record)
        use = Use(model, str(record.caller), record.verb or "unknown", record.rule or "", record.reason or "")
        others = Use(OTHERS, OTHERS, "", "")
        if record.decision is Decision.DENY:
            _add(self.denied, use, others, record.time)
            return
        _add(self.admin if record.kind is Kind.ADMIN else self.allowed, use._replace(reason=""), others, record.time)


def _add(rows: dict[Any, Span], key: Hashable, others: Hashable, at: float) -> None:
    if key not in rows and len(rows) >= MOST_ROWS:
        key = others
    rows.setdefault(key, Span()).add(at)


def grants_of(documents: PolicySet) -> list[Grant]:
    """Who may, as the documents say."""
    rules = {role.metadata.name: tuple(map(words, role.spec.rules)) for role in documents.roles}
    return [
        Grant(
            binding.metadata.name,
            binding.spec.action,
            tuple(map(words, binding.spec.subjects)),
            binding.spec.role,
            rules.get(binding.spec.role, ()),
        )
        for binding in documents.bindings
    ]


def words(value: object) -> str:
    """A part of a document: `workload.namespace: pricing; workload.serviceAccount: quoter`."""
    return "; ".join(f"{name}: {text}" for name, text in _flat(msgspec.to_builtins(value))) or "everybody"


def _flat(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            if each not in (None, [], {}, ()):
                yield from _flat(each, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple):
        yield path, ", ".join([each if isinstance(each, str) else msgspec.json.encode(each).decode() for each in value])
    else:
        yield path, value if isinstance(value, str) else msgspec.json.encode(value).decode()
