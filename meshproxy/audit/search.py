"""Which lines of a trail are looked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshproxy.config.globs import compile_glob

if TYPE_CHECKING:
    from meshproxy.audit.lines import Caller, Decision, Kind, Record


@dataclass(frozen=True, slots=True)
class Search:
    """What a line has to have. None: anything."""

    caller: str | None = None
    """A glob of a SPIFFE id, of a token's subject, of `issuer:subject`, of an IAM role, or of who changed something."""
    model: str | None = None
    """A glob."""
    verb: str | None = None
    decision: Decision | None = None
    kinds: frozenset[Kind] = frozenset()
    """Empty: all of them."""
    rule: str | None = None
    """A binding that decided, or that matched."""
    since: float = float("-inf")
    """Seconds since the epoch."""
    until: float = float("inf")
    """Not included."""

    def filter(self) -> Callable[[Record], bool]:
        """Whether a line is one of them."""
        tests: list[Callable[[Record], bool]] = [lambda record: self.since <= record.time < self.until]
        if self.kinds:
            tests.append(lambda record: record.kind in self.kinds)
        if self.decision is not None:
            tests.append(lambda record: record.decision is self.decision)
        if self.verb is not None:
            tests.append(lambda record: record.verb == self.verb)
        if (rule := self.rule) is not None:
            tests.append(lambda record: rule in (*(record.rule or "").split(", "), *record.audits))
        if self.model is not None:
            names_model = compile_glob(self.model)
            tests.append(lambda record: any(names_model(model.name) for model in record.models))
        if self.caller is not None:
            names_caller = compile_glob(self.caller)
            tests.append(lambda record: any(map(names_caller, names_of(record.caller, record.subject, record.by))))
        return lambda record: all(test(record) for test in tests)


def names_of(caller: Caller, subject: str | None = None, by: str | None = None) -> list[str]:
    """What a caller is called. Of an event: `subject`, which may be an identity, and `by`, who did it."""
    token = f"{caller.issuer}:{caller.subject}" if caller.issuer is not None else None
    names = (caller.spiffe_id, caller.subject, token, caller.iam_role, subject, by)
    return [name for name in names if name is not None]
