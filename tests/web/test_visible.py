"""What is taken out for viewers who may not see it."""

from __future__ import annotations

import msgspec
import pytest

from meshproxy.web.permissions import EVERYTHING, Permission
from meshproxy.web.visible import View
from tests.view.meshes import mesh
from tests.web.meshes import CALLER, ROLLOUT, FixedSource

GRAPH = frozenset({Permission.GRAPH})
MESH = mesh(20, 1_000_000.0)


@pytest.fixture
def view() -> View:
    return View(FixedSource(MESH, 1_000_000.0))


def test_whoever_sees_everything_sees_the_graph_as_it_is(view: View) -> None:
    source = FixedSource(MESH, 1_000_000.0)
    whole = View(source)
    assert whole.graph(60, EVERYTHING) is source.graph(60)


def test_without_callers_there_are_pseudonyms(view: View) -> None:
    whole, cut = view.graph(60, EVERYTHING), view.graph(60, GRAPH)
    text = msgspec.json.encode(cut).decode()
    for row in whole.rows:
        for name in (row.workload, row.token, row.role, row.address, row.caller, row.server):
            assert not name or name not in text, name
    for node in whole.nodes:
        for binding in (*node.traffic.allowed_by, *node.traffic.denied_by):
            assert binding not in text, binding
    assert len(cut.nodes) == len(whole.nodes)
    # Still one graph: edges lead to nodes, and figures are those of the whole one.
    ids = {node.id for node in cut.nodes}
    assert all(edge.source in ids and edge.target in ids for edge in cut.edges)
    assert len({edge.id for edge in cut.edges}) == len(whole.edges)
    assert sum(node.traffic.calls for node in cut.nodes) == sum(node.traffic.calls for node in whole.nodes)
    assert [node.id for node in cut.nodes] == sorted(ids)  # the order says nothing of the names
    # The same object while the graph is; pseudonyms are of this process.
    assert view.graph(60, GRAPH) is cut
    assert View(FixedSource(MESH, 1_000_000.0)).graph(60, GRAPH).nodes != cut.nodes


def test_reasons_of_denials_need_their_own_permission(view: View) -> None:
    sees = frozenset({Permission.GRAPH, Permission.CALLERS})
    assert any(row.traffic.denied_by for row in view.graph(60, EVERYTHING).rows)
    assert not any(row.traffic.denied_by for row in view.graph(60, sees).rows)
    assert [row.caller for row in view.graph(60, sees).rows] == [row.caller for row in view.graph(60, EVERYTHING).rows]


def test_a_model(view: View) -> None:
    source = FixedSource(MESH, 1_000_000.0)
    source.denied = tuple(msgspec.structs.replace(each, call="predict other, model-0") for each in source.denied)
    view = View(source)
    whole, cut = view.model("model-0", 60, EVERYTHING), view.model("model-0", 60, GRAPH)
    assert whole is not None
    assert cut is not None
    assert whole.rules is not None
    assert whole.denials == source.denied
    assert (cut.rules, cut.denials) == (None, None)
    assert whole.calls
    assert all(edge.target == "model:model-0" for edge in whole.calls)
    assert {node.id for node in whole.callers} == {edge.source for edge in whole.calls}
    assert {node.model for node in whole.versions} == {"model-0"}
    [rule] = whole.rules
    assert rule.used == whole.model.traffic.allowed_by.get("readers-0", 0) > 0
    other = view.model("model-1", 60, EVERYTHING)
    assert other is not None
    assert other.denials == ()
    idle = view.model("nobody-calls-it", 60, EVERYTHING)
    assert idle is not None
    assert (idle.calls, idle.shares) == ([], [])
    assert view.model("no-such", 60, EVERYTHING) is None


def test_the_arms_of_a_rollout_have_the_shares_that_were_seen() -> None:
    found = View(FixedSource(MESH, 1_000_000.0, ROLLOUT)).model("model-0", 60, GRAPH)
    assert found is not None
    assert found.rollout is not None
    shares = {edge.target: edge.share for edge in found.shares}
    for arm in found.rollout.arms:
        assert arm.share == shares[f"version:model-0:{arm.version}"]
    idle = View(FixedSource(MESH, 1_000_000.0, ROLLOUT)).model("nobody-calls-it", 60, GRAPH)
    assert idle is not None
    assert idle.rollout is not None
    assert [arm.share for arm in idle.rollout.arms] == [None, None]


def test_what_happened_in_a_rollout_names_sidecars_and_operators() -> None:
    view = View(FixedSource(MESH, 1_000_000.0, msgspec.structs.replace(ROLLOUT, events=("Aborted: ordered by eve",))))
    for sees in (GRAPH, EVERYTHING - {Permission.CONFIGURATION}):
        model = view.model("model-0", 60, sees)
        assert model is not None
        assert model.rollout is not None
        assert model.rollout.events == ()
    whole = view.model("model-0", 60, EVERYTHING)
    assert whole is not None
    assert whole.rollout is not None
    assert whole.rollout.events == ("Aborted: ordered by eve",)


def test_denials_without_callers(view: View) -> None:
    text = msgspec.json.encode(view.denials(frozenset({Permission.DENIALS}))).decode()
    assert "permission-denied" in text
    assert CALLER not in text
    assert "serving" not in text
    assert CALLER in msgspec.json.encode(view.denials(EVERYTHING)).decode()
