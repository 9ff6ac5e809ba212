from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from meshproxy.proxy.mirror import RESULTS
from meshproxy.routing.failure import Failure
from meshproxy.routing.retry import Skip
from meshproxy.telemetry.endpoint_labels import MOST_ENDPOINTS
from meshproxy.telemetry.exposition import render
from meshproxy.telemetry.metrics import PAUSE_STEPS
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from meshproxy.telemetry.upstream_metrics import MOST_CIRCUITS, UpstreamMetrics
from meshproxy.transport.connect_failures import ConnectFailure
from meshproxy.upstream.breaker import State

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange


@pytest.fixture
def metrics() -> SidecarMetrics:
    made = SidecarMetrics()
    made.requests.mention(["m"])
    return made


@pytest.fixture
def traffic(metrics: SidecarMetrics) -> UpstreamMetrics:
    return UpstreamMetrics(metrics.registry, metrics.requests.model_labels)


def lines(metrics: SidecarMetrics, name: str) -> dict[str, float]:
    """The samples of a metric: value by labels."""
    page = b"".join(render(metrics.registry)).decode()
    return {
        match[1] or "": float(match[2])
        for line in page.splitlines()
        if (match := re.fullmatch(rf"{name}(\{{.*\}})? (\S+)", line))
    }


class Endpoint:
    """As far as metrics look at one (`endpoint.Endpoint`)."""

    def __init__(
        self,
        key: str,
        states: dict[str, State] | None = None,
        *,
        is_ejected: bool = False,
        is_healthy: bool | None = None,
        is_closed: bool = True,
    ) -> None:
        self.key = self.name = key
        self._states = states or {}
        self.is_ejected = is_ejected
        self.health = None if is_healthy is None else SimpleNamespace(is_healthy=is_healthy)
        self.breaker = SimpleNamespace(is_closed=is_closed)

    def states(self) -> list[tuple[str, State]]:
        return list(self._states.items())


def cluster(name: str, *endpoints: Endpoint) -> Any:
    return SimpleNamespace(name=name, endpoints={each.key: each for each in endpoints})


def test_failed_connections_by_reason(metrics: SidecarMetrics, traffic: UpstreamMetrics) -> None:
    for failure in (ConnectFailure.EXPIRED, ConnectFailure.EXPIRED, ConnectFailure.NO_SOCKET):
        traffic.connect_failed("a", failure)
    assert lines(metrics, "meshproxy_connect_failures_total") == {
        '{server="a",reason="expired"}': 2,
        '{server="a",reason="no_socket"}': 1,
    }


class TestCalls:
    def test_retries_and_why_there_were_none(
        self, metrics: SidecarMetrics, traffic: UpstreamMetrics, make_exchange: MakeExchange
    ) -> None:
        traffic.retried(make_exchange(model="m"), Failure.CONNECT)
        traffic.retry_skipped(make_exchange(model="m"), Failure.RESET, Skip.BODY)
        traffic.retry_skipped(make_exchange(model="m"), Failure.RESET, Skip.BUDGET)
        assert lines(metrics, "meshproxy_retries_total") == {
            f'{{direction="inbound",model="m",reason="{Failure.CONNECT.value}"}}': 1
        }
        assert lines(metrics, "meshproxy_retries_skipped_total") == {
            f'{{direction="inbound",model="m",reason="{Failure.RESET.value}",skip="{skip.value}"}}': 1
            for skip in (Skip.BODY, Skip.BUDGET)
        }
        assert lines(metrics, "meshproxy_retry_budget_exhausted_total") == {
            f'{{direction="inbound",model="m",reason="{Failure.RESET.value}"}}': 1
        }

    def test_names_that_callers_made_up_are_one(
        self, metrics: SidecarMetrics, traffic: UpstreamMetrics, make_exchange: MakeExchange
    ) -> None:
        for number in range(50):
            exchange = make_exchange(model=f"made-up-{number}")
            traffic.retried(exchange, Failure.CONNECT)
            traffic.hedged(exchange)
        traffic.hedged(make_exchange(call=None))
        assert lines(metrics, "meshproxy_retries_total") == {
            f'{{direction="inbound",model="_other",reason="{Failure.CONNECT.value}"}}': 50
        }
        assert lines(metrics, "meshproxy_hedges_total") == {
            '{direction="inbound",model="_other"}': 50,
            '{direction="inbound",model="_none"}': 1,
        }

    def test_fallbacks_and_copies_by_route(
        self, metrics: SidecarMetrics, traffic: UpstreamMetrics, make_exchange: MakeExchange
    ) -> None:
        traffic.fell_back(make_exchange(direction="outbound", route="canary"))
        for result in RESULTS:
            traffic.mirrored("outbound", "canary", result)
        assert lines(metrics, "meshproxy_fallbacks_total") == {'{direction="outbound",route="canary"}': 1}
        assert lines(metrics, "meshproxy_mirrored_total") == {
            f'{{direction="outbound",route="canary",result="{result}"}}': 1 for result in RESULTS
        }


class TestEndpoints:
    def test_breakers_of_endpoints_and_of_models(self, metrics: SidecarMetrics, traffic: UpstreamMetrics) -> None:
        traffic.circuit("a", "", "e", State.CLOSED, State.OPEN)
        traffic.circuit("a", "m", "e", State.OPEN, State.HALF_OPEN)
        traffic.circuit("a", "made-up", "e", State.HALF_OPEN, State.CLOSED)
        assert lines(metrics, "meshproxy_circuit_transitions_total") == {
            '{server="a",model="_any",endpoint="e",state="open"}': 1,
            '{server="a",model="m",endpoint="e",state="half_open"}': 1,
            '{server="a",model="_other",endpoint="e",state="closed"}': 1,
        }

    def test_what_can_be_read_off_clusters_is_read_when_somebody_asks(
        self, metrics: SidecarMetrics, traffic: UpstreamMetrics
    ) -> None:
        traffic.watch(
            lambda: [
                cluster(
                    "a",
                    Endpoint("x", {"": State.CLOSED, "m": State.OPEN, "u": State.CLOSED, "v": State.HALF_OPEN}),
                    Endpoint("y", {"": State.OPEN}, is_ejected=True, is_healthy=False, is_closed=False),
                    Endpoint("z", is_healthy=True),
                ),
                cluster("b"),
            ],
            {},
        )
        assert lines(metrics, "meshproxy_circuit_state") == {
            '{server="a",model="_any",endpoint="x"}': 0,
            '{server="a",model="m",endpoint="x"}': 2,
            '{server="a",model="_other",endpoint="x"}': 1,
            '{server="a",model="_any",endpoint="y"}': 2,
        }
        counts = {"known": 3, "ejected": 1, "unhealthy": 1, "open": 1}
        assert lines(metrics, "meshproxy_endpoints") == {
            f'{{server="{name}",state="{state}"}}': count if name == "a" else 0
            for name in ("a", "b")
            for state, count in counts.items()
        }

    def test_changes_ejections_checks_and_look_ups(self, metrics: SidecarMetrics, traffic: UpstreamMetrics) -> None:
        traffic.endpoints("a", ["x", "y"], [])
        traffic.ejected("a", "x")
        traffic.checked("a", "x", True)
        traffic.checked("a", "x", False)
        traffic.discovery_failed("a", "no answer")
        assert lines(metrics, "meshproxy_endpoint_changes_total") == {
            '{server="a",change="added"}': 2,
            '{server="a",change="removed"}': 0,
        }
        assert lines(metrics, "meshproxy_endpoint_ejections_total") == {'{server="a",endpoint="x"}': 1}
        assert lines(metrics, "meshproxy_health_checks_total") == {
            '{server="a",result="good"}': 1,
            '{server="a",result="bad"}': 1,
        }
        assert lines(metrics, "meshproxy_discovery_failures_total") == {'{server="a"}': 1}

    def test_who_waits_for_health_is_told(self, traffic: UpstreamMetrics) -> None:
        told: list[str] = []
        traffic.on_health.append(told.append)
        traffic.health_changed("a")
        assert told == ["a"]


class TestBounds:
    def test_pods_that_come_and_go_do_not_fill_the_page(
        self, metrics: SidecarMetrics, traffic: UpstreamMetrics
    ) -> None:
        for number in range(3 * MOST_ENDPOINTS):
            traffic.endpoints("a", [f"e{number}"], [f"e{number - 1}"])
            traffic.ejected("a", f"e{number}")
            traffic.circuit("a", "", f"e{number}", State.CLOSED, State.OPEN)
        ejections = lines(metrics, "meshproxy_endpoint_ejections_total")
        assert len(ejections) == MOST_ENDPOINTS
        assert f'{{server="a",endpoint="e{3 * MOST_ENDPOINTS - 1}"}}' in ejections
        assert len(lines(metrics, "meshproxy_circuit_transitions_total")) == MOST_ENDPOINTS
        assert metrics.registry.lines < 3 * MOST_ENDPOINTS

    def test_more_at_a_time_are_one(self, metrics: SidecarMetrics, traffic: UpstreamMetrics) -> None:
        for number in range(MOST_ENDPOINTS + 10):
            traffic.ejected("a", f"e{number}")
        assert lines(metrics, "meshproxy_endpoint_ejections_total")['{server="a",endpoint="_other"}'] == 10

    def test_models_times_endpoints_have_a_bound(self, metrics: SidecarMetrics, traffic: UpstreamMetrics) -> None:
        models = [f"m{number}" for number in range(100)]
        metrics.requests.mention(models)
        for endpoint in range(20):
            for model in models:
                traffic.circuit("a", model, f"e{endpoint}", State.CLOSED, State.OPEN)
        transitions = lines(metrics, "meshproxy_circuit_transitions_total")
        assert len(transitions) == MOST_CIRCUITS + 1
        assert transitions['{server="a",model="_other",endpoint="_other",state="open"}'] == 2_000 - MOST_CIRCUITS

    def test_of_too_many_breakers_those_that_are_open_are_shown(
        self, metrics: SidecarMetrics, traffic: UpstreamMetrics
    ) -> None:
        endpoints = [Endpoint(f"e{number}", {"": State.CLOSED}) for number in range(MOST_CIRCUITS + 10)]
        endpoints.append(Endpoint("last", {"": State.OPEN}))
        traffic.watch(lambda: [cluster("a", *endpoints)], {})
        rows = lines(metrics, "meshproxy_circuit_state")
        assert len(rows) == MOST_CIRCUITS + 1
        assert rows['{server="a",model="_any",endpoint="last"}'] == 2
        assert rows['{server="a",model="_other",endpoint="_other"}'] == 0


def test_nothing_waits_for_a_page_of_many_breakers(metrics: SidecarMetrics, traffic: UpstreamMetrics) -> None:
    """Endpoints that come and go meanwhile do no harm."""
    models = {f"m{number}": State.CLOSED for number in range(500)}
    metrics.requests.mention(models)
    endpoints = [Endpoint(f"e{number}", models) for number in range(40)]
    clusters = [cluster("a", *endpoints)]
    traffic.watch(lambda: clusters, {})
    pieces = []
    for piece in render(metrics.registry):
        pieces.append(piece)
        if not piece:
            clusters[0].endpoints[f"new{len(pieces)}"] = Endpoint("new", {})
    assert len([piece for piece in pieces if not piece]) > 20_000 // PAUSE_STEPS + 10
    rows = lines(metrics, "meshproxy_circuit_state")
    assert len(rows) == MOST_CIRCUITS + 1


def test_places_of_all_models_in_a_series_add_up(metrics: SidecarMetrics, traffic: UpstreamMetrics) -> None:
    def pipeline(*rows: tuple[str, str, int, int]) -> Any:
        found = [
            (route, model, SimpleNamespace(waiting=waiting, limit=SimpleNamespace(current=limit)))
            for route, model, waiting, limit in rows
        ]
        return SimpleNamespace(admissions=SimpleNamespace(rows=lambda: found))

    inbound = pipeline(("r", "m", 3, 16))
    outbound = pipeline(("r", "m", 1, 4), ("r", "made-up", 0, 2), ("r", "made-up-too", 1, 3))
    traffic.watch(list, {"inbound": inbound, "outbound": outbound})
    assert lines(metrics, "meshproxy_queue_depth") == {
        '{direction="inbound",route="r",model="m"}': 3,
        '{direction="outbound",route="r",model="m"}': 1,
        '{direction="outbound",route="r",model="_other"}': 1,
    }
    assert lines(metrics, "meshproxy_concurrency_limit") == {
        '{direction="inbound",route="r",model="m"}': 16,
        '{direction="outbound",route="r",model="m"}': 4,
        '{direction="outbound",route="r",model="_other"}': 5,
    }
