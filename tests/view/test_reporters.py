"""Who reports: late, lost, repeated and silent."""

from __future__ import annotations

import pytest

from meshproxy.view import reporters as module
from meshproxy.view.reporters import KEPT_SECONDS, Reporter, ReporterKey, Reporters, ReportState
from tests.view.meshes import EVERY, report

KEY = ReporterKey("spiffe://mesh.test/ns/serving/sa/fraud", "fraud", "h", 0)


def test_gaps_and_repeats() -> None:
    reporters = Reporters()
    taken = [reporters.take(KEY, report(sequence=number), EVERY, 0.0) for number in (1, 2, 2, 5, 4, 6)]
    assert taken == [True, True, False, True, False, True]
    assert (reporters.received, reporters.lost, reporters.repeated) == (4, 2, 2)
    assert (reporters.known[KEY].lost, reporters.known[KEY].received) == (2, 4)


def test_what_another_control_plane_has_is_not_lost() -> None:
    reporters = Reporters()
    reporters.take(KEY, report(sequence=1), EVERY, 0.0)
    reporters.take(KEY, report(sequence=8, acknowledged=6), EVERY, 0.0)
    assert reporters.lost == 1


def test_a_restart_begins_anew() -> None:
    reporters = Reporters()
    reporters.take(KEY, report(sequence=9), EVERY, 0.0)
    assert reporters.take(KEY, report(sequence=1, run="b"), EVERY, 1.0)
    assert reporters.lost == 0


def test_silence() -> None:
    reporters = Reporters()
    reporters.take(KEY, report(), EVERY, 100.0)
    states = [reporters.known[KEY].state(100.0 + later) for later in (12.0, 13.0, 30.0, 31.0)]
    assert states == [ReportState.FRESH, ReportState.LATE, ReportState.LATE, ReportState.SILENT]
    reporters.stop(KEY)
    assert reporters.count(200.0)[ReportState.STOPPED] == 1
    reporters.prune(100.0 + KEPT_SECONDS)
    assert reporters.known
    reporters.prune(101.0 + KEPT_SECONDS)
    assert not reporters.known


def test_a_late_report() -> None:
    reporters = Reporters()
    reporters.take(KEY, report(age=15.0), EVERY, 0.0)
    reporters.take(KEY, report(sequence=2, age=16.0), EVERY, 0.0)
    assert (reporters.late, reporters.known[KEY].late) == (1, 1)


def test_processes_beyond_the_bound_count_but_are_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    reporters = Reporters()
    for host in "abc":
        assert reporters.take(KEY._replace(host=host), report(), EVERY, 0.0)
    assert (len(reporters.known), reporters.forgotten, reporters.received) == (2, 1, 3)
    # Those that are long silent make room.
    reporters.take(KEY._replace(host="d"), report(), EVERY, KEPT_SECONDS + 1)
    assert (len(reporters.known), reporters.forgotten) == (1, 1)


def test_one_identity_does_not_fill_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OF_ONE", 2)
    reporters = Reporters()
    for host in "abc":
        assert reporters.take(KEY._replace(host=host), report(), EVERY, 0.0)
    assert (len(reporters.known), reporters.forgotten) == (2, 1)
    other = KEY._replace(spiffe_id="another")
    assert reporters.take(other, report(), EVERY, 0.0)
    assert other in reporters.known
    # As above; a process that is known keeps its place.
    assert reporters.take(KEY._replace(host="b"), report(sequence=9), EVERY, KEPT_SECONDS)
    for host in "cd":
        reporters.take(KEY._replace(host=host), report(), EVERY, KEPT_SECONDS + 1)
    assert sorted(key.host for key in reporters.known) == ["b", "c"]
    assert reporters.forgotten == 2


def test_a_clock_that_was_set_back_keeps_nobody_fresh() -> None:
    reporter = Reporter("a", 1, 5_000.0, 5.0)
    assert reporter.state(1_000.0) is ReportState.FRESH
    assert reporter.state(1_060.0) is ReportState.SILENT


def test_a_full_table_is_not_searched_for_each_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 1)
    reporters = Reporters()
    assert reporters.take(ReporterKey("a", "a", "h", 0), report(), 5.0, 0.0)
    for later in (10.0, 20.0, 3_605.0):
        assert reporters.take(ReporterKey("b", "b", "h", 0), report(), 5.0, later)
    assert reporters.forgotten == 2
    assert list(reporters.known) == [ReporterKey("b", "b", "h", 0)]
