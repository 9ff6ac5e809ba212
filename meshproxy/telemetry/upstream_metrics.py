"""Metrics of upstreams and routes: retries, circuit breakers, endpoints, discovery, health checks, concurrency limits.

Counters are incremented as events occur; the state of clusters is read at scrape time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.routing.retry import Skip
from meshproxy.telemetry import metric_table
from meshproxy.telemetry.endpoint_labels import EndpointLabels
from meshproxy.telemetry.metrics import OTHER, PAUSE_STEPS, Counter, Gauge, PausingRows, Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from meshproxy.proxy.exchange import Exchange
    from meshproxy.proxy.pipeline import Pipeline
    from meshproxy.routing.admission import Admission
    from meshproxy.routing.failure import Failure
    from meshproxy.telemetry.metrics import Registry
    from meshproxy.telemetry.model_labels import ModelLabels
    from meshproxy.transport.connect_failures import ConnectFailure
    from meshproxy.upstream.breaker import State
    from meshproxy.upstream.cluster import Cluster

ANY = "_any"
"""The label `model` of a circuit breaker that covers all models of an endpoint."""
PAUSE_ENDPOINTS = 200
"""Of one server: to look at so many takes 0.1 ms."""
MOST_CIRCUITS = 1_000
"""Circuit breakers with a row, those that are not closed first; and label sets of their transitions."""


class UpstreamMetrics:
    """Counts for pipelines (`pipeline.Traffic`), clusters (`cluster.Watch`) and their discovery (`ClusterObserver`)."""

    def __init__(self, registry: Registry, model_labels: ModelLabels) -> None:
        self._model_labels = model_labels
        self.on_health: list[Callable[[str], None]] = []
        """Called with the name of a server whose endpoint was checked."""
        self._retries = Counter(registry, metric_table.RETRIES)
        self._skipped = Counter(registry, metric_table.RETRIES_SKIPPED)
        self._exhausted = Counter(registry, metric_table.RETRY_BUDGET_EXHAUSTED)
        self._hedges = Counter(registry, metric_table.HEDGES)
        self._fallbacks = Counter(registry, metric_table.FALLBACKS)
        self._mirrored = Counter(registry, metric_table.MIRRORED)
        self._connect_failures = Counter(registry, metric_table.CONNECT_FAILURES)
        self._transitions = Counter(registry, metric_table.CIRCUIT_TRANSITIONS)
        self._circuits = Gauge(registry, metric_table.CIRCUIT_STATE)
        self._ejections = Counter(registry, metric_table.EJECTIONS)
        self._endpoints = Gauge(registry, metric_table.ENDPOINTS)
        self._endpoint_changes = Counter(registry, metric_table.ENDPOINT_CHANGES)
        self._discovery_failures = Counter(registry, metric_table.DISCOVERY_FAILURES)
        self._checks = Counter(registry, metric_table.HEALTH_CHECKS)
        self._depth = Gauge(registry, metric_table.QUEUE_DEPTH)
        self._limit = Gauge(registry, metric_table.CONCURRENCY_LIMIT)
        self._labels = EndpointLabels(self._forget)

    def watch(self, clusters: Callable[[], Iterable[Cluster]], pipelines: Mapping[str, Pipeline]) -> None:
        """Read the state of these at scrape time. `pipelines`: by direction."""
        self._circuits.read_from(lambda: self._circuit_rows(tuple(clusters())))
        self._endpoints.read_from(lambda: _endpoint_rows(tuple(clusters())))
        self._depth.read_from(lambda: self._admission_rows(pipelines, lambda admission: admission.waiting))
        self._limit.read_from(lambda: self._admission_rows(pipelines, lambda admission: admission.limit.current))

    # pipeline.Traffic

    def retried(self, exchange: Exchange, failure: Failure) -> None:
        """An attempt failed and is retried."""
        self._retries.labels(_direction(exchange), self._model(exchange), failure.value).value += 1

    def retry_skipped(self, exchange: Exchange, failure: Failure, skip: Skip) -> None:
        """An attempt failed and is not retried."""
        direction, model = _direction(exchange), self._model(exchange)
        self._skipped.labels(direction, model, failure.value, skip.value).value += 1
        if skip is Skip.BUDGET:
            self._exhausted.labels(direction, model, failure.value).value += 1

    def hedged(self, exchange: Exchange) -> None:
        self._hedges.labels(_direction(exchange), self._model(exchange)).value += 1

    def fell_back(self, exchange: Exchange) -> None:
        """The request goes to the fallback server of its route."""
        self._fallbacks.labels(_direction(exchange), exchange.route).value += 1

    def mirrored(self, direction: str, route: str, result: str) -> None:
        """A request was mirrored, or could not be."""
        self._mirrored.labels(direction, route, result).value += 1

    # cluster.Watch

    def connect_failed(self, server: str, failure: ConnectFailure) -> None:
        """A connection to an endpoint could not be opened."""
        self._connect_failures.labels(server, failure.value).value += 1

    def circuit(self, server: str, model: str, endpoint: str, old: State, new: State) -> None:
        """A circuit breaker changed its state."""
        labels: tuple[str, ...] = (server, self._named(model), self._labels.read(server, endpoint), new.name.lower())
        if labels not in self._transitions.series and len(self._transitions.series) >= MOST_CIRCUITS:
            labels = (server, OTHER, OTHER, labels[3])
        self._transitions.labels(*labels).value += 1

    def ejected(self, server: str, endpoint: str) -> None:
        self._ejections.labels(server, self._labels.read(server, endpoint)).value += 1

    def endpoints(self, server: str, added: Sequence[str], removed: Sequence[str]) -> None:
        self._endpoint_changes.labels(server, "added").value += len(added)
        self._endpoint_changes.labels(server, "removed").value += len(removed)
        for endpoint in added:
            self._labels.added(server, endpoint)
        for endpoint in removed:
            self._labels.removed(server, endpoint)

    def _forget(self, server: str, endpoint: str) -> None:
        """Remove the series of an endpoint that no longer exists."""
        self._ejections.forget((server, endpoint))
        for labels in [each for each in self._transitions.series if (each[0], each[2]) == (server, endpoint)]:
            self._transitions.forget(labels)

    # clusters.ClusterObserver

    def discovery_failed(self, server: str, reason: str) -> None:
        self._discovery_failures.labels(server).value += 1

    def checked(self, server: str, endpoint: str, is_good: bool) -> None:
        self._checks.labels(server, "good" if is_good else "bad").value += 1

    def health_changed(self, server: str) -> None:
        """The health of an endpoint may have changed."""
        for listener in self.on_health:
            listener(server)

    # Rows

    def _model(self, exchange: Exchange) -> str:
        return self._model_labels.read(exchange.forwarded, was_served=False)[0]

    def _named(self, model: str) -> str:
        return self._model_labels.name(model) if model else ANY

    def _circuit_rows(self, clusters: Iterable[Cluster]) -> PausingRows:
        worst: dict[tuple[str, ...], float] = {}
        steps = 0
        for cluster in clusters:
            for endpoint in tuple(cluster.endpoints.values()):
                states = endpoint.states()
                for model, state in states:
                    labels = (cluster.name, self._named(model), endpoint.name)
                    # Models that share `_other` show the worst of their states.
                    worst[labels] = max(worst.get(labels, 0), state.value)
                steps += len(states)
                if steps >= PAUSE_STEPS:
                    steps = 0
                    yield None
        left = MOST_CIRCUITS
        rest: dict[tuple[str, ...], float] = {}
        for wanted in sorted(set(worst.values()), reverse=True) if len(worst) > left else (None,):
            for number, (row, value) in enumerate(worst.items(), 1):
                if wanted is None or (value == wanted and left):
                    left -= 1
                    yield row, value
                elif value == wanted:
                    rest.setdefault((row[0], OTHER, OTHER), value)
                if number % PAUSE_STEPS == 0:
                    yield None
        yield from rest.items()

    def _admission_rows(self, pipelines: Mapping[str, Pipeline], read: Callable[[Admission], int]) -> Rows:
        found: dict[tuple[str, ...], int] = {}
        for direction, pipeline in pipelines.items():
            for route, model, admission in pipeline.admissions.rows():
                labels = (direction, route, self._named(model))
                found[labels] = found.get(labels, 0) + read(admission)
        return list(found.items())


def _direction(exchange: Exchange) -> str:
    return exchange.connection.direction


def _endpoint_rows(clusters: Iterable[Cluster]) -> PausingRows:
    for cluster in clusters:
        endpoints = tuple(cluster.endpoints.values())
        yield (cluster.name, "known"), len(endpoints)
        yield (cluster.name, "ejected"), sum(each.is_ejected for each in endpoints)
        yield (
            (cluster.name, "unhealthy"),
            sum(each.health is not None and not each.health.is_healthy for each in endpoints),
        )
        yield (cluster.name, "open"), sum(each.breaker is not None and not each.breaker.is_closed for each in endpoints)
        if len(endpoints) >= PAUSE_ENDPOINTS:
            yield None
