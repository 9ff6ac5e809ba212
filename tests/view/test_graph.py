"""The graph: each call once, as the one who knows best has seen it."""

from __future__ import annotations

import msgspec
import pytest

from meshproxy.control_api import ReportedCaller
from meshproxy.telemetry.quantiles import BOUNDS
from meshproxy.view.graph import ELSEWHERE, OWN_ANSWER, Graph, Health, NodeKind, caller_name, health, node_id
from meshproxy.view.mesh import Mesh
from tests.view.meshes import EVERY, calls, mesh, report

NOW = 1e9
API = "spiffe://mesh.test/ns/shop/sa/api"
FRAUD = "spiffe://mesh.test/ns/serving/sa/fraud"


def shown(*said: tuple[str, object]) -> Graph:
    """The graph of reports of these identities."""
    found = Mesh()
    for spiffe_id, rows in said:
        found.take(spiffe_id, report(*rows), EVERY, NOW)  # type: ignore[misc]
    return found.graph(60.0, NOW)


def test_nodes_edges_and_rows() -> None:
    graph = shown(
        (FRAUD, [calls(API, count=90), calls(API, version="4", count=10, failed=5, codes={"200": 5, "503": 5})])
    )
    assert [node.id for node in graph.nodes] == [f"caller:{API}", "model:fraud", "version:fraud:3", "version:fraud:4"]
    assert [(edge.source, edge.target, edge.share) for edge in graph.edges] == [
        (f"caller:{API}", "model:fraud", 1.0),
        ("model:fraud", "version:fraud:3", 0.9),
        ("model:fraud", "version:fraud:4", 0.1),
    ]
    assert [(row.caller, row.server, row.version, row.traffic.calls) for row in graph.rows] == [
        (API, FRAUD, "3", 90),
        (API, FRAUD, "4", 10),
    ]
    whole = graph.nodes[1].traffic
    assert (whole.calls, whole.rate, whole.success, whole.mtls) == (100, 20.0, 0.95, 1.0)
    assert whole.latency.p50 is not None
    assert BOUNDS[48] < whole.latency.p50 <= BOUNDS[49]
    assert whole.health is Health.DEGRADED


def test_a_call_that_both_sidecars_report_is_shown_once() -> None:
    inbound = calls(API, count=10)
    outbound = calls(API, direction="outbound", count=9, retries=2, refused={"NO_ENDPOINT": 1}, failed=1)
    graph = shown((FRAUD, [inbound]), (API, [outbound]))
    traffic = graph.edges[0].traffic
    assert traffic.codes == {"200": 10, OWN_ANSWER: 1}
    assert (traffic.calls, traffic.retries, traffic.failed, traffic.refused) == (11, 2, 1, 1)
    assert [row.server for row in graph.rows] == ["", FRAUD]


def test_a_denial_of_the_server_is_not_counted_again() -> None:
    inbound = calls(API, count=10, codes={"403": 10}, denied={"PERMISSION_DENIED": 10})
    outbound = calls(API, direction="outbound", codes={"403": 10}, denied={ELSEWHERE: 10})
    assert shown((FRAUD, [inbound]), (API, [outbound])).edges[0].traffic.denied == 10
    assert shown((API, [outbound])).edges[0].traffic.denied == 10


def test_denied_calls_say_nothing_about_success() -> None:
    denied = calls(ReportedCaller(address="10.0.0.7"), security="plaintext", codes={"403": 4}, denied={"X": 4})
    graph = shown((FRAUD, [denied]))
    traffic = graph.edges[0].traffic
    assert (traffic.success, traffic.health, traffic.mtls) == (None, Health.IDLE, 0.0)
    assert graph.nodes[0].name == "anonymous (10.0.0.7)"


def test_a_model_that_nobody_calls_is_shown_if_asked_for() -> None:
    graph = Mesh().graph(60.0, NOW, ["idle"])
    (node,) = graph.nodes
    assert (node.id, node.kind, node.traffic.health) == ("model:idle", NodeKind.MODEL, Health.IDLE)


@pytest.mark.parametrize(
    ("success", "expected"),
    [(None, Health.IDLE), (1.0, Health.WELL), (0.9995, Health.WELL), (0.998, Health.DEGRADED), (0.89, Health.FAILING)],
)
def test_health(success: float | None, expected: Health) -> None:
    assert health(success) is expected


def test_names() -> None:
    assert caller_name(ReportedCaller(API, token="corp:alice")) == f"{API} (corp:alice)"
    assert node_id(NodeKind.VERSION, "1", "a:b%") == "version:a%3Ab%25:1"


@pytest.mark.parametrize("nodes", [5, 50])
def test_the_json_is_read_back(nodes: int) -> None:
    graph = mesh(nodes, NOW, 20.0).graph(60.0, NOW)
    assert abs(len(graph.nodes) - nodes) <= nodes // 5 + 3
    assert msgspec.json.decode(msgspec.json.encode(graph), type=Graph) == graph
    ids = {node.id for node in graph.nodes}
    assert all(edge.source in ids and edge.target in ids for edge in graph.edges)


def test_ids_of_edges_are_those_of_nothing_else() -> None:
    graph = shown((FRAUD, [calls("a", "b>model:c"), calls("a>model:b", "c"), calls("a", "b"), calls("a%3E", "c")]))
    ids = [*(node.id for node in graph.nodes), *(edge.id for edge in graph.edges)]
    assert len(set(ids)) == len(ids)
