"""What happens to requests between their head and their answer, and to the endpoints that they go to, as metrics.

Counters are added to as things happen; what can be read off the clusters is read when somebody asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.routing.retry import Skip
from meshproxy.telemetry.endpoint_labels import EndpointLabels
from meshproxy.telemetry.metrics import OTHER, Counter, Gauge, Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from meshproxy.proxy.exchange import Exchange
    from meshproxy.proxy.pipeline import Pipeline
    from meshproxy.routing.failure import Failure
    from meshproxy.telemetry.catalogue import Metrics
    from meshproxy.upstream.admission import Admission
    from meshproxy.upstream.breaker import State
    from meshproxy.upstream.cluster import Cluster

ANY = "_any"
"""A breaker that is about an endpoint, whatever the model."""
MOST_CIRCUITS = 1_000
"""Breakers with a row, and label sets of their changes. Those that are not closed come first."""


class TrafficMetrics:
    """Counts for pipelines (`pipeline.Traffic`), clusters (`cluster.Watch`) and their discovery (`ClusterObserver`)."""

    def __init__(self, metrics: Metrics) -> None:
        registry = metrics.registry
        self._metrics = metrics
        self.on_health: list[Callable[[str], None]] = []
        """Told the name of a server of which an endpoint was checked."""
        self._retries = Counter(registry, "meshproxy_retries_total", "Tries after the first one.", ("model", "reason"))
        self._skipped = Counter(
            registry,
            "meshproxy_retries_skipped_total",
            "Tries that failed and were not followed by another one, and why not.",
            ("model", "reason", "skip"),
        )
        self._exhausted = Counter(
            registry,
            "meshproxy_retry_budget_exhausted_total",
            "Retries that the budget did not allow.",
            ("model", "reason"),
        )
        self._hedges = Counter(
            registry, "meshproxy_hedges_total", "Second tries made beside a first that took long.", ("model",)
        )
        self._fallbacks = Counter(
            registry, "meshproxy_fallbacks_total", "Calls that went to the other server of their route.", ("route",)
        )
        self._mirrored = Counter(
            registry, "meshproxy_mirrored_total", "Copies of calls, by what became of them.", ("route", "result")
        )
        self._transitions = Counter(
            registry,
            "meshproxy_circuit_transitions_total",
            "Changes of a circuit breaker; model `_any`: the endpoint's own.",
            ("server", "model", "endpoint", "state"),
        )
        self._circuits = Gauge(
            registry,
            "meshproxy_circuit_state",
            "0 closed, 1 half-open, 2 open; model `_any`: the endpoint's own.",
            ("server", "model", "endpoint"),
        )
        self._ejections = Counter(
            registry,
            "meshproxy_endpoint_ejections_total",
            "Endpoints taken out for a while because they did worse than the others.",
            ("server", "endpoint"),
        )
        self._endpoints = Gauge(
            registry,
            "meshproxy_endpoints",
            "Endpoints of a server: known, ejected, unhealthy by their checks, open by their breakers.",
            ("server", "state"),
        )
        self._endpoint_changes = Counter(
            registry,
            "meshproxy_endpoint_changes_total",
            "Endpoints that discovery found or missed.",
            ("server", "change"),
        )
        self._discovery_failures = Counter(
            registry,
            "meshproxy_discovery_failures_total",
            "Look-ups of endpoints without a usable answer; the last good one goes on counting.",
            ("server",),
        )
        self._checks = Counter(
            registry, "meshproxy_health_checks_total", "Health checks of endpoints.", ("server", "result")
        )
        self._labels = EndpointLabels(self._forget)
        self._depth = Gauge(registry, "meshproxy_queue_depth", "Calls that wait for their turn.", ("route", "model"))
        self._limit = Gauge(
            registry, "meshproxy_concurrency_limit", "Calls that may be under way at a time.", ("route", "model")
        )

    def watch(self, clusters: Callable[[], Iterable[Cluster]], pipelines: Sequence[Pipeline]) -> None:
        """Read from these when somebody asks."""
        self._circuits.read_from(lambda: list(self._circuit_rows(clusters())))
        self._endpoints.read_from(lambda: list(_endpoint_rows(clusters())))
        self._depth.read_from(lambda: self._admission_rows(pipelines, lambda admission: admission.waiting))
        self._limit.read_from(lambda: self._admission_rows(pipelines, lambda admission: admission.limit.current))

    # pipeline.Traffic

    def retried(self, exchange: Exchange, failure: Failure) -> None:
        """A try failed, and another one is made."""
        self._retries.labels(self._model(exchange), failure.value).value += 1

    def retry_skipped(self, exchange: Exchange, failure: Failure, skip: Skip) -> None:
        """A try failed, and no other one is made."""
        model = self._model(exchange)
        self._skipped.labels(model, failure.value, skip.value).value += 1
        if skip is Skip.BUDGET:
            self._exhausted.labels(model, failure.value).value += 1

    def hedged(self, exchange: Exchange) -> None:
        """A second try is made beside the first."""
        self._hedges.labels(self._model(exchange)).value += 1

    def fell_back(self, exchange: Exchange) -> None:
        """The route's other server is tried."""
        self._fallbacks.labels(exchange.route).value += 1

    def mirrored(self, route: str, result: str) -> None:
        """A copy was sent, or was not."""
        self._mirrored.labels(route, result).value += 1

    # cluster.Watch

    def circuit(self, server: str, model: str, endpoint: str, old: State, new: State) -> None:
        """A breaker changed its state."""
        labels: tuple[str, ...] = (server, self._named(model), self._labels.read(server, endpoint), new.name.lower())
        if labels not in self._transitions.series and len(self._transitions.series) >= MOST_CIRCUITS:
            labels = (server, OTHER, OTHER, labels[3])
        self._transitions.labels(*labels).value += 1

    def ejected(self, server: str, endpoint: str) -> None:
        """An endpoint was taken out."""
        self._ejections.labels(server, self._labels.read(server, endpoint)).value += 1

    def endpoints(self, server: str, added: Sequence[str], removed: Sequence[str]) -> None:
        """Discovery found other endpoints than before."""
        self._endpoint_changes.labels(server, "added").value += len(added)
        self._endpoint_changes.labels(server, "removed").value += len(removed)
        for endpoint in added:
            self._labels.come(server, endpoint)
        for endpoint in removed:
            self._labels.gone(server, endpoint)

    def _forget(self, server: str, endpoint: str) -> None:
        """Make room for endpoints that are there."""
        self._ejections.forget((server, endpoint))
        for labels in [each for each in self._transitions.series if (each[0], each[2]) == (server, endpoint)]:
            self._transitions.forget(labels)

    # clusters.ClusterObserver

    def discovery_failed(self, server: str, reason: str) -> None:
        """Endpoints could not be looked up."""
        self._discovery_failures.labels(server).value += 1

    def checked(self, server: str, endpoint: str, is_good: bool) -> None:
        """A health check ended."""
        self._checks.labels(server, "good" if is_good else "bad").value += 1

    def health_changed(self, server: str) -> None:
        """An endpoint may be doing otherwise than before."""
        for listener in self.on_health:
            listener(server)

    # Rows

    def _model(self, exchange: Exchange) -> str:
        return self._metrics.model_labels.read(exchange.forwarded, was_served=False)[0]

    def _named(self, model: str) -> str:
        return self._metrics.model_labels.name(model) if model else ANY

    def _circuit_rows(self, clusters: Iterable[Cluster]) -> Iterable[tuple[tuple[str, ...], float]]:
        worst: dict[tuple[str, ...], float] = {}
        for cluster in clusters:
            for endpoint in cluster.endpoints.values():
                for model, state in endpoint.states():
                    labels = (cluster.name, self._named(model), endpoint.key)
                    # Models that share `_other` share the worst of their states.
                    worst[labels] = max(worst.get(labels, 0), state.value)
        rows = sorted(worst.items(), key=lambda row: -row[1]) if len(worst) > MOST_CIRCUITS else worst.items()
        shown: dict[tuple[str, ...], float] = {}
        for number, (row, value) in enumerate(rows):
            key = row if number < MOST_CIRCUITS else (row[0], OTHER, OTHER)
            shown[key] = max(shown.get(key, 0), value)
        return shown.items()

    def _admission_rows(self, pipelines: Sequence[Pipeline], read: Callable[[Admission], int]) -> Rows:
        found: dict[tuple[str, ...], int] = {}
        for pipeline in pipelines:
            for route, model, admission in pipeline.admissions.rows():
                labels = (route, self._named(model))
                found[labels] = found.get(labels, 0) + read(admission)
        return list(found.items())


def _endpoint_rows(clusters: Iterable[Cluster]) -> Iterable[tuple[tuple[str, ...], float]]:
    for cluster in clusters:
        endpoints = cluster.endpoints.values()
        yield (cluster.name, "known"), len(endpoints)
        yield (cluster.name, "ejected"), sum(each.is_ejected for each in endpoints)
        yield (
            (cluster.name, "unhealthy"),
            sum(each.health is not None and not each.health.is_healthy for each in endpoints),
        )
        yield (cluster.name, "open"), sum(each.breaker is not None and not each.breaker.is_closed for each in endpoints)
