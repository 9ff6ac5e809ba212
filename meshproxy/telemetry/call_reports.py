"""What a sidecar tells its control plane of its calls: who called which version of which model, and how it went.

Calls are counted in rows, one for each caller, model, version and verb, and in the row by outcome; a report takes what
has come since the one before. Callers choose who they are, so rows are bounded: what exceeds the bounds is counted
under `_other`, and how much that is, too. Nothing is lost while nobody takes a report: counts go on growing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from meshproxy.control_api import ReportedCaller, ReportedCalls, ReportedDenial, ReportedTime
from meshproxy.identity.caller import Workload
from meshproxy.inference.grpc_health import ALIVE
from meshproxy.policy.decide import NO_ROLES, SEVERAL
from meshproxy.proxy.exchange import NO_FLAGS
from meshproxy.telemetry import call_facts
from meshproxy.telemetry.metrics import OTHER, printable
from meshproxy.telemetry.quantiles import BOUNDS
from meshproxy.telemetry.request_metrics import ACCESS_REASONS, SMALL
from meshproxy.telemetry.sampling import has_failed

if TYPE_CHECKING:
    from meshproxy.proxy.exchange import Exchange
    from meshproxy.telemetry.hop_lag import Reading
    from meshproxy.telemetry.model_labels import ModelLabels

R = TypeVar("R", bound=msgspec.Struct)
MOST_ROWS = 500
"""Each is 5 KB while it has calls."""
MOST_CALLERS = 200
"""That have rows of their own."""
MOST_ADDRESSES = 50
"""The same for callers that are only known by an address."""
MOST_NAMES = 16
"""Of each table of a row: codes, bindings, reasons."""
MOST_OUTCOMES = 64
"""Of one row, with names; of what is beyond, those that differ in their names are one."""
MOST_DENIALS = 8
"""Of one report: the last ones."""
MOST_TIMES = 32
"""Models of one report whose times are told."""
IDLE_REPORTS = 60
"""After so many reports without a call a row is forgotten."""
MEMO_ENTRIES = 4_096
CHARACTERS = 256

ELSEWHERE = "by the server's sidecar"
"""The reason of a refusal that another sidecar has given (`view.graph`)."""
CALLERS, ROWS = "callers", "rows"
"""The limits that calls under `_other` have exceeded."""

_CELLS = len(BOUNDS) + 1
_UNKNOWN = ReportedCaller(workload=OTHER)


class _Row:
    """The calls of one caller to one version of one model."""

    __slots__ = ("calls", "idle", "is_gone", "outcomes", "proxy", "retries", "total", "upstream")

    def __init__(self, calls: ReportedCalls) -> None:
        self.calls = calls
        """Its names; the numbers are filled in when a report is made."""
        self.total = [0] * _CELLS
        self.upstream = [0] * _CELLS
        self.proxy = [0] * _CELLS
        self.outcomes: dict[tuple[object, ...], _Outcome] = {}
        self.idle = 0
        """Reports since its last call."""
        self.is_gone = False
        """What is counted here would not be reported."""

    def take(self) -> ReportedCalls | None:
        """What has come since the last time; None if nothing has."""
        found = msgspec.structs.replace(self.calls, codes={}, allowed={}, denied={}, refused={})
        has_calls = False
        for outcome in self.outcomes.values():
            if outcome.calls:
                outcome.take(found)
                has_calls = True
        if not has_calls:
            return None
        found.total, found.upstream, found.proxy = _take(self.total), _take(self.upstream), _take(self.proxy)
        return found


class _Outcome:
    """Those of them that went the same way."""

    __slots__ = ("attempts", "calls", "code", "denied", "failed", "refused", "row", "rules")

    def __init__(
        self, row: _Row, code: str, rules: Sequence[str], denied: str, refused: str, failed: bool, attempts: int
    ) -> None:
        self.row = row
        self.calls = 0
        self.code = code
        self.rules = rules
        self.denied = denied
        self.refused = refused
        self.failed = failed
        self.attempts = attempts

    def take(self, into: ReportedCalls) -> None:
        count, self.calls = self.calls, 0
        _add(into.codes, self.code, count)
        for rule in self.rules:
            _add(into.allowed, rule, count)
        if self.denied:
            _add(into.denied, self.denied, count)
        if self.refused:
            _add(into.refused, self.refused, count)
        if self.failed:
            into.failed += count
        into.attempts += count * self.attempts
        into.retries += count * max(0, self.attempts - 1)


class CallReports:
    """Counts finished exchanges (`observer.Sink`).

    Args:
        labels: which models and versions have names.
        offset: from the times of exchanges to seconds since the epoch.
    """

    def __init__(self, labels: ModelLabels, offset: Callable[[], float]) -> None:
        self._labels = labels
        self._offset = offset
        self._rows: dict[tuple[object, ...], _Row] = {}
        self._memo: dict[tuple[object, ...], tuple[object, _Outcome]] = {}
        """By what tells outcomes apart that is at hand; with the caller, whose `id` is part of that."""
        self._callers: dict[ReportedCaller, bool] = {}
        """Those that have names; whether it is only an address."""
        self._denials: deque[ReportedDenial] = deque(maxlen=MOST_DENIALS)
        self._times: dict[str, ReportedTime] = {}

    def observe(self, exchange: Exchange) -> None:
        """Count one completed exchange; 1.5 us if it is like one before."""
        caller, connection = exchange.caller, exchange.connection
        call = exchange.forwarded or exchange.asked
        refusal = exchange.refusal
        outcome: _Outcome | None = None
        key: tuple[object, ...] = ()
        if (
            refusal is None
            and call is not None
            and exchange.flags is NO_FLAGS
            and len(call.models) == 1
            and caller.workload is not None
        ):
            model = call.models[0]
            key = (
                id(caller),
                model.name,
                model.version,
                model.label,
                id(call.verb),  # there is one of each: half of the time of its hash
                exchange.effective_version,
                exchange.status,
                exchange.grpc_status,
                exchange.rule,
                len(exchange.attempts),
                connection.direction,
                exchange.is_refused_remotely,
            )
            known = self._memo.get(key)
            if known is not None and known[0] is caller:
                outcome = known[1]
        if outcome is None:
            if call is None and refusal is None and exchange.head.target == ALIVE:
                return  # another sidecar looks whether this one is there, each second
            outcome = self._find(exchange)
            if key and outcome.row.calls.model != OTHER and outcome.row.calls.version != OTHER:
                if len(self._memo) >= MEMO_ENTRIES:
                    self._memo.clear()
                self._memo[key] = caller, outcome
        outcome.calls += 1
        if refusal is None and exchange.first_byte and not exchange.is_refused_remotely:
            _measure(outcome.row, exchange)

    def repeat(self, exchange: Exchange) -> Callable[[Exchange], None]:
        """A sink for exchanges that repeat this one (`Observer.repeat`), which the model server answered; 0.5 us."""
        outcome = self._find(exchange)
        row = outcome.row
        if OTHER in (row.calls.model, row.calls.version, row.calls.caller.workload):
            return self.observe  # what it stands for may change

        total, upstream, proxy, find, bounds = row.total, row.upstream, row.proxy, bisect_left, BOUNDS

        def observe(exchange: Exchange) -> None:
            # `_measure` again: to call it is a tenth of all of this.
            if row.is_gone:
                self.observe(exchange)
                return
            outcome.calls += 1
            finished, started, first_byte = exchange.finished, exchange.started, exchange.first_byte
            sent, received = exchange.connected, exchange.received
            if sent < received < first_byte:
                sent = received
            total[find(bounds, finished - started)] += 1
            upstream[find(bounds, first_byte - sent)] += 1
            if exchange.bytes_received <= SMALL and exchange.bytes_sent <= SMALL:
                proxy[find(bounds, exchange.decided - started + finished - first_byte)] += 1

        return observe

    def note_reading(self, model: str, reading: Reading) -> None:
        """What the model server's own page says of a model's calls."""
        model = _word(model)
        before = self._times.get(model)
        if before is None:
            if len(self._times) >= MOST_TIMES:
                return
            before = ReportedTime(0, 0.0, 0.0)
        calls, lag = reading.calls, max(reading.lag, 0.0)
        bucket = bisect_left(BOUNDS, lag)
        self._times[model] = ReportedTime(
            before.calls + calls,
            before.model + calls * max(reading.server, 0.0),
            before.network + calls * lag,
            {**before.lag, bucket: before.lag.get(bucket, 0) + calls},
        )

    def take(self) -> tuple[list[ReportedCalls], tuple[ReportedDenial, ...], dict[str, ReportedTime], dict[str, int]]:
        """What has come since the last time: rows, denials, the model servers' times, and the calls under `_other` by
        limit."""
        rows: list[ReportedCalls] = []
        unnamed: dict[str, int] = {}
        for key, row in list(self._rows.items()):
            found = row.take()
            if found is not None:
                row.idle = 0
                rows.append(found)
                if found.caller is _UNKNOWN:
                    limit = ROWS if found.verb == OTHER else CALLERS
                    unnamed[limit] = unnamed.get(limit, 0) + sum(found.codes.values())
                continue
            row.idle += 1
            if row.idle >= IDLE_REPORTS:
                del self._rows[key]
                row.is_gone = True
                self._memo.clear()
                if all(each.calls.caller is not row.calls.caller for each in self._rows.values()):
                    self._callers.pop(row.calls.caller, None)
        denials, times = tuple(self._denials), self._times
        self._denials.clear()
        self._times = {}
        return rows, denials, times, unnamed

    def _find(self, exchange: Exchange) -> _Outcome:
        """Where an exchange is counted."""
        code, rules = call_facts.code(exchange), _rules(exchange)
        denied = refused = ""
        refusal = exchange.refusal
        if refusal is not None:
            label = refusal.reason.label
            if refusal.reason in ACCESS_REASONS:
                denied = f"{refusal.rule}: {label}" if refusal.rule else label
            else:
                refused = label
        elif exchange.is_refused_remotely:
            denied, refused = (ELSEWHERE, "") if call_facts.is_denied(exchange) else ("", ELSEWHERE)
        row = self._row(exchange, was_served=not denied and not refused and not has_failed(exchange))
        if refusal is not None and denied:
            self._deny(exchange, row)
        failed, attempts = has_failed(exchange), len(exchange.attempts)
        if len(row.outcomes) >= MOST_OUTCOMES and (code, rules, denied, refused, failed, attempts) not in row.outcomes:
            # Names are lost, and no call.
            code, rules = OTHER, (OTHER,) if rules else ()
            denied, refused, attempts = denied and OTHER, refused and OTHER, min(attempts, 2)
        key = (code, rules, denied, refused, failed, attempts)
        outcome = row.outcomes.get(key)
        if outcome is None:
            outcome = row.outcomes[key] = _Outcome(row, code, rules, denied, refused, failed, attempts)
        return outcome

    def _row(self, exchange: Exchange, *, was_served: bool) -> _Row:
        call = exchange.forwarded or exchange.asked
        model, version = self._labels.read(call, was_served=was_served, effective=exchange.effective_version)
        connection = exchange.connection
        caller = self._name(read_caller(exchange)) if connection.direction == "inbound" else ReportedCaller()
        security = connection.security
        if connection.direction == "outbound":
            security = "mtls" if exchange.attempts and exchange.attempts[-1].is_tls else "plaintext"
        verb = call.verb.value if call is not None else OTHER
        key = (caller, security, model, version, verb, connection.direction)
        row = self._rows.get(key)
        if row is None and len(self._rows) >= MOST_ROWS:
            key = (_UNKNOWN, OTHER, OTHER, OTHER, OTHER, connection.direction)
            row = self._rows.get(key)
        if row is None:
            caller, security, model, version, verb, direction = key
            names = (direction, caller, security, model, version, verb)
            row = self._rows[key] = _Row(ReportedCalls(*names))
        return row

    def _name(self, caller: ReportedCaller) -> ReportedCaller:
        """The caller, if there is room for it."""
        if caller in self._callers:
            return caller
        is_address = bool(caller.address)
        if is_address and sum(self._callers.values()) >= MOST_ADDRESSES:
            return ReportedCaller(address=OTHER)
        if len(self._callers) >= MOST_CALLERS:
            return _UNKNOWN
        self._callers[caller] = is_address
        return caller

    def _deny(self, exchange: Exchange, row: _Row) -> None:
        """Keep it for people."""
        refusal, asked = exchange.refusal, exchange.asked
        assert refusal is not None
        models = ", ".join([model.name for model in asked.models[:4]]) if asked is not None else ""
        called = f"{asked.verb.value} {models}".rstrip() if asked is not None else ""
        self._denials.append(
            ReportedDenial(
                max(0.0, exchange.finished + self._offset()),
                row.calls.caller,
                printable(called)[:CHARACTERS],
                refusal.reason.label,
                printable(refusal.message)[: 2 * CHARACTERS],
                printable(refusal.rule or "")[:CHARACTERS],
            )
        )


def read_caller(exchange: Exchange) -> ReportedCaller:
    """Who has called, also if the call was refused before the caller was known."""
    caller, connection = exchange.caller, exchange.connection
    workload = caller.workload
    if workload is None and isinstance(connection.peer, Workload):
        workload = connection.peer
    token = caller.token
    return ReportedCaller(
        _word(workload.spiffe_id) if workload is not None else "",
        _word(f"{token.issuer}:{token.subject}") if token is not None else "",
        _word(token.iam_role or "") if token is not None else "",
        _word(connection.remote.rpartition(":")[0]) if workload is None and token is None else "",
    )


def _rules(exchange: Exchange) -> tuple[str, ...]:
    """The bindings that have permitted it."""
    rule = exchange.rule
    return tuple(map(_word, rule.split(SEVERAL)[:MOST_NAMES])) if rule and rule != NO_ROLES else ()


def _word(text: str) -> str:
    return printable(text)[:CHARACTERS]


def _add(to: dict[str, int], name: str, count: int) -> None:
    if name not in to and len(to) >= MOST_NAMES:
        name = OTHER
    to[name] = to.get(name, 0) + count


def _take(counts: list[int]) -> dict[int, int]:
    found = {index: count for index, count in enumerate(counts) if count}
    for index in found:
        counts[index] = 0
    return found


def _measure(row: _Row, exchange: Exchange) -> None:
    """An answer of the model server."""
    finished, started, first_byte = exchange.finished, exchange.started, exchange.first_byte
    sent, received = exchange.connected, exchange.received
    if sent < received < first_byte:
        sent = received
    row.total[bisect_left(BOUNDS, finished - started)] += 1
    row.upstream[bisect_left(BOUNDS, first_byte - sent)] += 1
    if exchange.bytes_received <= SMALL and exchange.bytes_sent <= SMALL:
        row.proxy[bisect_left(BOUNDS, exchange.decided - started + finished - first_byte)] += 1


def parts(rows: Iterable[R], most_bytes: int) -> list[list[R]]:
    """Rows in as many messages as they need: none is larger. At least one, which may be empty."""
    found: list[list[R]] = [[]]
    size = 0
    for row in rows:
        length = len(msgspec.json.encode(row)) + 1
        if found[-1] and size + length > most_bytes:
            found.append([])
            size = 0
        found[-1].append(row)
        size += length
    return found
