"""Metrics of requests: what one completed exchange adds to which series."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

from meshproxy.inference.call import Verb
from meshproxy.policy.decide import DEFAULT_DENY, NO_ROLES, NOT_LISTED, SEVERAL
from meshproxy.proxy.exchange import Exchange
from meshproxy.refusal import GRPC_STATUS_NAMES, Reason, Refusal
from meshproxy.telemetry import metric_table
from meshproxy.telemetry.last_refusals import LastRefusals
from meshproxy.telemetry.metrics import (
    OTHER,
    PAUSE_STEPS,
    Counter,
    CounterSeries,
    Exemplar,
    Gauge,
    Histogram,
    HistogramSeries,
    PausingRows,
    Registry,
)
from meshproxy.telemetry.model_labels import NONE, ModelLabels

SMALL = 65_536
"""Bytes of a body up to which its overhead is measured: the transfer of larger ones waits for the network and for the
reader."""

ACCESS_REASONS = frozenset(
    {
        Reason.UNAUTHENTICATED,
        Reason.PERMISSION_DENIED,
        Reason.MODEL_CHANGED,
        Reason.KEYS_UNAVAILABLE,
        Reason.AUDIT_UNAVAILABLE,
    }
)
"""Refusals that count as authorization decisions and belong in the audit trail."""

MEMO_ENTRIES = 4_096

_POLICY = metric_table.DECISIONS.labels.index("policy")


class RequestMetrics:
    """Counts completed exchanges.

    Args:
        registry: where the metrics are exposed.
        model_labels: which models and versions have their own series.
        now: seconds since the epoch, for exemplars.
    """

    def __init__(self, registry: Registry, model_labels: ModelLabels, now: Callable[[], float] = time.time) -> None:
        self.model_labels = model_labels
        self._now = now
        self.total = Counter(registry, metric_table.REQUESTS)
        self.duration = Histogram(registry, metric_table.REQUEST_DURATION)
        self.overhead = Histogram(registry, metric_table.OVERHEAD)
        self.request_size = Histogram(registry, metric_table.REQUEST_SIZE)
        self.response_size = Histogram(registry, metric_table.RESPONSE_SIZE)
        self.in_flight = Gauge(registry, metric_table.IN_FLIGHT)
        self.in_flight_time = Counter(registry, metric_table.IN_FLIGHT_TIME)
        self.decisions = Counter(registry, metric_table.DECISIONS)
        self.refusals = Counter(registry, metric_table.REFUSALS)
        self._memo: dict[tuple[object, ...], _ExchangeSeries] = {}
        self._allowed = _Allowed(self.decisions)
        self.last_refusals = LastRefusals()

    def expect(self, direction: str) -> None:
        """Exchanges of this direction will come: `rate()` needs to see the zero before the first event."""
        for reason in Reason:
            self.refusals.labels(direction, reason.label)

    def mention(self, models: Iterable[str], versions: Iterable[str] = ()) -> None:
        """Set which models, versions and labels the documents of a new configuration mention. Counts are kept."""
        self.model_labels.mention(models, versions)
        self._memo.clear()

    def keep_policies(self, bindings: Iterable[str]) -> None:
        """Forget the decisions of bindings that are no longer there: each reload could bring new names."""
        kept = {*bindings, DEFAULT_DENY, NO_ROLES, NOT_LISTED, OTHER, ""}
        for labels in [each for each in self.decisions.series if each[_POLICY] not in kept]:
            self.decisions.forget(labels)
        self._allowed.clear()

    def observe(self, exchange: Exchange) -> None:
        """Count one completed exchange; about 1.3 us.

        The histograms are the model server's: what the sidecar answers itself, in microseconds or after a timeout, says
        nothing about a model's latency or the size of its answers.
        """
        connection = exchange.connection
        call = exchange.forwarded
        status = exchange.status
        grpc_status = exchange.grpc_status
        # One lookup finds all series. Calls of several models are rare and not worth a key.
        key: tuple[object, ...]
        if call is None:
            key = (connection.direction, connection.protocol, exchange.is_grpc, status, grpc_status)
            series = self._memo.get(key)
        elif len(call.models) == 1:
            model = call.models[0]
            version = model.version
            if version is None and model.label is None:
                version = exchange.effective_version or None
            key = (
                connection.direction,
                connection.protocol,
                exchange.is_grpc,
                status,
                grpc_status,
                call.verb,
                model.name,
                version,
                model.label,
            )
            series = self._memo.get(key)
        else:
            key = ()
            series = None
        series = series or self._find_series(exchange, key)

        refusal = exchange.refusal
        allowed = None
        if refusal is not None:
            self._count_refusal(exchange, refusal)
        elif exchange.rule:
            allowed = self._allowed[connection.direction, exchange.rule]
        if exchange.first_byte and refusal is None and not exchange.is_refused_remotely:
            self._count_answer(series, allowed, exchange)
        else:
            _count(series, allowed, exchange.finished - exchange.started)
        if refusal is not None or exchange.permit_audits:
            for rule in read_audits(exchange):
                self.decisions.labels(connection.direction, "audit", rule, "").value += 1

    def repeat(self, exchange: Exchange) -> Callable[[Exchange], None]:
        """A sink for exchanges that repeat this one (`Observer.repeat`), which the model server answered: the series
        are looked up once."""
        series = self._find_series(exchange, ())
        if OTHER in series[0].labels or exchange.permit_audits:
            return self.observe  # what they stand for may change
        allowed = self._allowed[exchange.connection.direction, exchange.rule] if exchange.rule else None
        return partial(self._count_answer, series, allowed)

    def _count_answer(self, series: _ExchangeSeries, allowed: CounterSeries | None, exchange: Exchange) -> None:
        """An answer of the model server."""
        requests, time, duration, overhead, request_size, response_size = series
        seconds, received, sent = exchange.finished - exchange.started, exchange.bytes_received, exchange.bytes_sent
        requests.value += 1  # `_count`, without its call
        time.value += seconds
        if allowed is not None:
            allowed.value += 1
        # `observe`, without its calls: 5 % of the Python of a small request.
        if duration.above < seconds <= duration.up_to:
            duration.counts[duration.place] += 1
            duration.sum += seconds
        else:
            duration.observe(seconds)
        if request_size.above < received <= request_size.up_to:
            request_size.counts[request_size.place] += 1
            request_size.sum += received
        else:
            request_size.observe(received)
        if response_size.above < sent <= response_size.up_to:
            response_size.counts[response_size.place] += 1
            response_size.sum += sent
        else:
            response_size.observe(sent)
        if received <= SMALL and sent <= SMALL:
            value = exchange.decided - exchange.started + exchange.finished - exchange.first_byte
            if overhead.above < value <= overhead.up_to:
                overhead.counts[overhead.place] += 1
                overhead.sum += value
            else:
                overhead.observe(value)
        trace = exchange.trace
        if trace is not None and trace.is_exported:
            duration.exemplify(Exemplar(seconds, self._now(), trace.trace_id, trace.span_id))

    def count_in_flight(self, exchanges: Iterable[Exchange]) -> PausingRows:
        """The rows of `meshproxy_requests_in_flight` for these exchanges."""
        counts: dict[tuple[str, ...], int] = {}
        for number, exchange in enumerate(tuple(exchanges), 1):
            model, _ = self.model_labels.read(exchange.forwarded, was_served=False)
            labels = (exchange.connection.direction, model)
            counts[labels] = counts.get(labels, 0) + 1
            if number % PAUSE_STEPS == 0:
                yield None
        yield from counts.items()

    def _find_series(self, exchange: Exchange, key: tuple[object, ...]) -> _ExchangeSeries:
        call = exchange.forwarded
        was_served = (
            exchange.refusal is None
            and 200 <= exchange.status < 300
            and (exchange.grpc_status == 0 if exchange.is_grpc else True)
        )
        model, version = self.model_labels.read(call, was_served=was_served, effective=exchange.effective_version)
        verb = call.verb if call is not None else None
        direction = exchange.connection.direction
        series = (
            self.total.labels(
                direction,
                model,
                version,
                _verb_label(verb),
                exchange.connection.protocol,
                _code_label(exchange.status),
                _grpc_status_label(exchange),
            ),
            self.in_flight_time.labels(direction, model),
            self.duration.labels(direction, model, version, _verb_label(verb)),
            self.overhead.labels(direction),
            self.request_size.labels(direction, model),
            self.response_size.labels(direction, model),
        )
        # `_other` is not cached: what it stands for is unbounded, and a later response may give it a series.
        if key and OTHER not in (model, version):
            if len(self._memo) >= MEMO_ENTRIES:
                self._memo.clear()
            self._memo[key] = series
        return series

    def _count_refusal(self, exchange: Exchange, refusal: Refusal) -> None:
        direction = exchange.connection.direction
        self.refusals.labels(direction, refusal.reason.label).value += 1
        self.last_refusals.add(exchange, refusal)
        if refusal.reason in ACCESS_REASONS:
            self.decisions.labels(direction, "deny", refusal.rule or "", refusal.reason.label).value += 1
        elif exchange.rule:
            self._allowed[direction, exchange.rule].value += 1


class _Allowed(dict[tuple[str, str], CounterSeries]):
    """The series of allowed requests by binding. Used as `allowed[direction, rule]`."""

    def __init__(self, decisions: Counter) -> None:
        self._decisions = decisions

    def __missing__(self, key: tuple[str, str]) -> CounterSeries:
        direction, rule = key
        if len(self) >= MEMO_ENTRIES:
            self.clear()
        # Callers choose which models they name together, and so which bindings decide together: that many series there
        # must not be.
        policy = OTHER if SEVERAL in rule else rule
        series = self[key] = self._decisions.labels(direction, "allow", policy, "")
        return series


def read_audits(exchange: Exchange) -> tuple[str, ...]:
    """The audit bindings that matched a call, whether it was allowed or not."""
    refusal = exchange.refusal
    return (refusal.audits if refusal is not None else ()) or exchange.permit_audits


_ExchangeSeries = tuple[
    CounterSeries, CounterSeries, HistogramSeries, HistogramSeries, HistogramSeries, HistogramSeries
]


def _count(series: _ExchangeSeries, allowed: CounterSeries | None, seconds: float) -> None:
    series[0].value += 1
    series[1].value += seconds
    if allowed is not None:
        allowed.value += 1


def _verb_label(verb: Verb | None) -> str:
    return verb.value if verb is not None else NONE


def _code_label(status: int) -> str:
    return str(status) if status == 0 or 100 <= status < 600 else OTHER


def _grpc_status_label(exchange: Exchange) -> str:
    if not exchange.is_grpc:
        return ""
    return NONE if exchange.grpc_status is None else GRPC_STATUS_NAMES.get(exchange.grpc_status, OTHER)
