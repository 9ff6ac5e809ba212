"""Calls added up, and what they are added to."""

from __future__ import annotations

from meshproxy.control_api import ReportedCaller
from meshproxy.telemetry.metrics import OTHER
from meshproxy.view.tallies import MOST_KEYS, Edge, new_tally
from tests.view.meshes import calls


def test_sums() -> None:
    tally = new_tally()
    tally.add(calls(count=3, retries=1, failed=2, denied={"KEYS": 1}))
    tally.add(calls(count=4, codes={"503": 4}, refused={"LIMIT": 4}))
    assert (tally.calls, tally.failed, tally.retries, tally.attempts) == (7, 2, 1, 7)
    assert (tally.codes, tally.total) == ({"200": 3, "503": 4}, {49: 7})
    assert (tally.denied, tally.refused, tally.allowed) == ({"KEYS": 1}, {"LIMIT": 4}, {"readers": 7})


def test_names_beyond_the_bound_are_other_and_none_is_lost() -> None:
    tally = new_tally()
    for number in range(2 * MOST_KEYS):
        tally.add(calls(count=1, codes={str(number): 1}))
    assert tally.calls == 2 * MOST_KEYS
    assert tally.codes[OTHER] == MOST_KEYS
    assert len(tally.codes) == MOST_KEYS + 1


def test_an_outbound_call_is_the_reporters_whatever_it_says() -> None:
    row = calls("spiffe://mesh.test/ns/bank/sa/director", direction="outbound")
    assert Edge.of("spiffe://mesh.test/ns/shop/sa/api", row).caller == ReportedCaller(
        "spiffe://mesh.test/ns/shop/sa/api"
    )
