"""Which calls a live page shows: `model=resnet*&code=5xx&caller=pricing/*`.

A field may be given several times, and one of its values has to match; all fields that are given have to. What cannot
be read is refused: a filter that was meant otherwise would hide what somebody looks for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING

from meshproxy.config.globs import compile_glob, is_literal
from meshproxy.config.problems import closest
from meshproxy.config.values import read_duration, shown
from meshproxy.inference.call import Verb
from meshproxy.refusal import GrpcStatus
from meshproxy.telemetry import call_facts
from meshproxy.telemetry.model_labels import LATEST
from meshproxy.telemetry.sampling import has_failed, is_refused

if TYPE_CHECKING:
    from meshproxy.proxy.exchange import Exchange

MOST_VALUES = 32
"""Of all fields together: each is compared with every call."""
MOST_CHARACTERS = 256
"""Of one value, and of what it is compared with: names of callers are cut."""
MOST_STARS = 8
"""Of one glob, which takes as many steps for each character."""

Predicate = Callable[["Exchange"], bool]


class Outcome(Enum):
    """How a call ended."""

    OK = "ok"
    """It neither failed nor was it refused."""
    FAILED = "failed"
    """HTTP status 5xx, a gRPC status that is an error of the server, or it broke off (`sampling.has_failed`)."""
    REFUSED = "refused"
    """A sidecar answered it, whatever the reason."""
    DENIED = "denied"
    """A sidecar answered it, as the caller may not make it."""

    def holds(self, exchange: Exchange) -> bool:
        """Whether it is one of these. A call may have failed and be refused, too."""
        if self is Outcome.REFUSED:
            return is_refused(exchange)
        if self is Outcome.DENIED:
            return call_facts.is_denied(exchange)
        failed = has_failed(exchange)
        return failed if self is Outcome.FAILED else not failed and not is_refused(exchange)


class CallFilter:
    """A filter, read. Without fields it takes every call.

    Args:
        fields: the values of each field, as they were given.

    Attributes:
        takes: whether it takes a finished exchange.

    Raises:
        ValueError: a field is unknown, or one of its values cannot be read.
    """

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields: dict[str, list[str]] = {}
        for number, (name, value) in enumerate(fields, 1):
            if number > MOST_VALUES:
                raise ValueError(f"expected at most {MOST_VALUES} values of all fields together")
            if name not in _FIELDS:
                raise ValueError(f"there is no field {shown(name)}{closest(name, _FIELDS)}: expected {_LISTED}")
            if not value or len(value) > MOST_CHARACTERS:
                raise ValueError(f"{name}: expected 1 to {MOST_CHARACTERS} characters")
            self._fields.setdefault(name, []).append(value)
        self.takes = _all([_read(name, values) for name, values in self._fields.items()])

    @property
    def fields(self) -> Mapping[str, list[str]]:
        """The values of the fields that are given."""
        return self._fields


def _read(name: str, values: list[str]) -> Predicate:
    try:
        return _FIELDS[name](values)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


# Loops where `any` would be shorter: a generator costs 0.3 us, and this is done for each call while somebody looks.


def _all(predicates: list[Predicate]) -> Predicate:
    """All of them hold."""
    if not predicates:
        return lambda exchange: True
    if len(predicates) == 1:
        return predicates[0]

    def holds(exchange: Exchange) -> bool:
        for predicate in predicates:  # noqa: SIM110
            if not predicate(exchange):
                return False
        return True

    return holds


def _one_of(texts: list[str]) -> Callable[[str], bool]:
    """One of the globs matches a text. Raises ValueError."""
    for text in texts:
        if text.count("*") > MOST_STARS:
            raise ValueError(f"expected at most {MOST_STARS} stars, got {shown(text)}")
    names = frozenset(text for text in texts if is_literal(text))
    globs = [compile_glob(text) for text in texts if not is_literal(text)]

    def matches(text: str) -> bool:
        if len(text) > MOST_CHARACTERS:
            text = text[:MOST_CHARACTERS]
        if text in names:
            return True
        for glob in globs:  # noqa: SIM110
            if glob(text) is not None:
                return True
        return False

    return matches


def _models(values: list[str]) -> Predicate:
    matches = _one_of(values)
    return lambda exchange: call_facts.any_model(exchange, lambda model: matches(model.name))


def _versions(values: list[str]) -> Predicate:
    """By versions and labels that are named, and by the version that answered where none is."""
    matches = _one_of(values)

    def has_version(exchange: Exchange) -> bool:
        if exchange.effective_version and matches(exchange.effective_version):
            return True
        return call_facts.any_model(exchange, lambda model: matches(model.named_version or LATEST))

    return has_version


def _callers(values: list[str]) -> Predicate:
    matches = _one_of(values)
    return lambda exchange: any(matches(name) for name in call_facts.caller_names(exchange.caller))


def _words(fact: Callable[[Exchange], str], known: Iterable[str]) -> Callable[[list[str]], Predicate]:
    """By a subject that has few values."""
    words = list(known)

    def read(values: list[str]) -> Predicate:
        for value in values:
            if value not in words:
                raise ValueError(f"expected one of {', '.join(words)}, got {shown(value)}{closest(value, words)}")
        return lambda exchange: fact(exchange) in values

    return read


def _globs(fact: Callable[[Exchange], str]) -> Callable[[list[str]], Predicate]:
    """By a subject that has names."""

    def read(values: list[str]) -> Predicate:
        matches = _one_of(values)
        return lambda exchange: matches(fact(exchange))

    return read


def _outcomes(values: list[str]) -> Predicate:
    try:
        outcomes = [Outcome(value) for value in values]
    except ValueError:
        raise ValueError(f"expected one of {', '.join(each.value for each in Outcome)}") from None
    return lambda exchange: any(outcome.holds(exchange) for outcome in outcomes)


def _codes(values: list[str]) -> Predicate:
    """HTTP statuses of REST, and of gRPC where there is no gRPC status; names of gRPC statuses."""
    ranges = [_read_code(value) for value in values]
    names = {found for found in ranges if isinstance(found, str)}
    numbers = [found for found in ranges if not isinstance(found, str)]

    def has_code(exchange: Exchange) -> bool:
        found = call_facts.code(exchange)
        if found in names:
            return True
        if exchange.is_grpc and exchange.grpc_status is not None:
            return False
        return any(low <= exchange.status <= high for low, high in numbers)

    return has_code


_CODE = re.compile(r"([1-5])xx|([0-9]{1,3})(?:-([0-9]{1,3}))?")


def _read_code(text: str) -> str | tuple[int, int]:
    """The name of a gRPC status, or the first and the last of some HTTP statuses."""
    if text.upper() in GrpcStatus.__members__:
        return text.upper()
    match = _CODE.fullmatch(text.lower())
    if match is None:
        raise ValueError(f"expected 503, 5xx, 500-599 or the name of a gRPC status, got {shown(text)}")
    kind, first, last = match.groups()
    if kind is not None:
        return int(kind) * 100, int(kind) * 100 + 99
    return int(first), int(last or first)


def _slower(values: list[str]) -> Predicate:
    if len(values) > 1:
        raise ValueError("expected one duration")
    least = read_time(values[0])
    return lambda exchange: exchange.finished - exchange.started >= least


def read_time(text: str) -> float:
    """Seconds of `250ms`, `1m30s` or `2.5`. Raises ValueError."""
    return read_duration(float(text) if _NUMBER.fullmatch(text) else text)


_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")

_FIELDS: dict[str, Callable[[list[str]], Predicate]] = {
    "model": _models,
    "version": _versions,
    "verb": _words(call_facts.verb, [verb.value for verb in Verb]),
    "caller": _callers,
    "code": _codes,
    "outcome": _outcomes,
    "direction": _words(call_facts.direction, ("inbound", "outbound")),
    "route": _globs(call_facts.route),
    "server": _globs(call_facts.server),
    "slower": _slower,
}
_LISTED = ", ".join(_FIELDS)
