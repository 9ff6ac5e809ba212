"""What a control plane knows of the mesh."""

from __future__ import annotations

import pytest

from meshproxy.control_api import ReportedCaller, ReportedDenial, ReportedTime
from meshproxy.view.hop_times import SECONDS
from meshproxy.view.mesh import DENIALS, Mesh
from tests.view.meshes import EVERY, calls, mesh, report

NOW = 1e9
FRAUD = "spiffe://mesh.test/ns/serving/sa/fraud"


def test_a_report_that_comes_twice_counts_once() -> None:
    found = Mesh()
    for _ in range(2):
        found.take(FRAUD, report(calls(count=10)), EVERY, NOW)
    assert found.graph(60.0, NOW).edges[0].traffic.calls == 10
    assert found.reports(NOW).repeated == 1


def test_the_model_servers_own_time_is_shown_while_it_is_new() -> None:
    found = Mesh()
    found.take(FRAUD, report(calls(), times={"fraud": ReportedTime(10, 0.04, 0.01)}), EVERY, NOW)
    model = found.graph(60.0, NOW).nodes[1].traffic
    assert (model.model_seconds, model.network_seconds) == (0.004, 0.001)
    assert model.network.p50 == pytest.approx(0.001, rel=0.1)
    assert found.graph(3_600.0, NOW + SECONDS + 1).nodes[1].traffic.model_seconds is None


def test_denials_name_who_has_denied() -> None:
    found = Mesh()
    denial = ReportedDenial(NOW, ReportedCaller(address="10.0.0.7"), "predict fraud", "UNAUTHENTICATED", "No token.")
    found.take(FRAUD, report(denials=(denial,)), EVERY, NOW)
    assert list(found.denials) == [(FRAUD, denial)]


def test_a_silent_reporter_is_seen() -> None:
    found = mesh(20, NOW).reports(NOW + 12.0)
    assert found.processes == {"fresh": 3, "late": 0, "silent": 1, "stopped": 0}
    assert not found.is_complete


def test_one_that_denies_without_end_hides_nobody_elses_denials() -> None:
    found = Mesh()
    denial = ReportedDenial(NOW, ReportedCaller(address="10.0.0.7"), "predict fraud", "UNAUTHENTICATED", "No token.")
    for sequence in range(1, 20):
        found.take("spiffe://mesh.test/ns/a/sa/loud", report(sequence=sequence, denials=(denial,) * 32), EVERY, NOW)
    assert len(found.denials) == DENIALS
    found.take(FRAUD, report(denials=(denial,)), EVERY, NOW)
    for sequence in range(20, 40):
        found.take("spiffe://mesh.test/ns/a/sa/loud", report(sequence=sequence, denials=(denial,) * 32), EVERY, NOW)
    assert sum(each.reporter == FRAUD for each in found.denials) == 1
    assert len(found.denials) == DENIALS
