from __future__ import annotations

from meshproxy.devtools.node.probing import Kind, Probing, probe_of, took
from meshproxy.devtools.node.spec import Container, Probe

PROBE = Probe(period_seconds=2.0, success_threshold=2, failure_threshold=3)


def results(*successes: bool) -> Probing:
    probing = Probing(next_at=0.0)
    for at, is_success in enumerate(successes):
        probing = took(probing, PROBE, is_success=is_success, now=float(at))
    return probing


def test_so_many_in_a_row_as_the_threshold_says() -> None:
    assert results(True).is_passed is None
    assert results(True, True).is_passed is True
    assert results(True, False, True).is_passed is None
    assert results(True, True, False, False).is_passed is True
    assert results(True, True, False, False, False).is_passed is False
    assert results(True, True, False, False, True, False).is_passed is True


def test_the_period_is_counted_from_the_beginning() -> None:
    began = Probing(next_at=10.0, is_running=True)
    soon = took(began, PROBE, is_success=True, now=10.5)
    assert (soon.next_at, soon.is_running) == (12.0, False)
    late = took(began, PROBE, is_success=True, now=15.0)
    assert (late.next_at, late.is_running) == (15.0, False)


def test_each_kind_is_a_field() -> None:
    container = Container("a", readiness_probe=PROBE)
    assert [probe_of(container, kind) for kind in Kind] == [None, PROBE, None]
