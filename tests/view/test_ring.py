"""The last hour: what is in it, what it lets go of, and that nothing is lost without being counted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.view import ring as module
from meshproxy.view.ring import COARSE_SECONDS, COARSE_SLOTS, FOLDED, FORGOTTEN, TOO_OLD, Ring
from tests.view.meshes import calls

NOW = 1_000_000_000.0 - 1_000_000_000.0 % COARSE_SECONDS + 150.0
"""In the middle of a coarse slot."""


def count(ring: Ring, seconds: float, now: float) -> int:
    return sum(tally.calls for tally in ring.window(seconds, now).tallies.values())


def add(ring: Ring, at: float, now: float, number: int = 1, **others: object) -> None:
    ring.add("spiffe://mesh.test/ns/serving/sa/fraud", calls(count=number, **others), at - 5.0, at, now)  # type: ignore[arg-type]


def test_windows() -> None:
    ring = Ring()
    for step in range(720):
        add(ring, NOW + 5.0 * step, NOW + 5.0 * step)
    end = NOW + 5.0 * 719
    assert count(ring, 60.0, end) == 13
    assert count(ring, 3_600.0, end) == 720
    assert ring.window(60.0, end).seconds == 60.0
    assert ring.window(62.0, end).seconds == 65.0
    assert ring.window(3_600.0, end).seconds == 3_600.0
    assert not ring.dropped


def test_a_young_ring_says_how_long_it_is() -> None:
    ring = Ring()
    assert ring.window(60.0, NOW) == (0.0, {})
    add(ring, NOW, NOW)
    assert ring.window(60.0, NOW + 7.0).seconds == 12.0


def test_a_late_report_belongs_to_its_time() -> None:
    ring = Ring()
    add(ring, NOW - 100.0, NOW)
    add(ring, NOW - 2_000.0, NOW)
    add(ring, NOW - 2_000.0, NOW)
    assert (count(ring, 60.0, NOW), count(ring, 120.0, NOW), count(ring, 3_600.0, NOW)) == (0, 1, 3)


def test_what_is_older_than_the_hour_is_counted() -> None:
    ring = Ring()
    add(ring, NOW - 4_000.0, NOW, 7)
    assert ring.dropped == {TOO_OLD: 7}
    assert count(ring, 3_600.0, NOW) == 0


def test_edges_beyond_the_bound_are_folded_into_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_EDGES", 3)
    ring = Ring()
    for number in range(10):
        add(ring, NOW, NOW, model=f"model-{number}")
    assert count(ring, 60.0, NOW) == 10
    assert len(ring.window(60.0, NOW).tallies) == 4
    assert ring.dropped == {FOLDED: 7}
    # Into a sealed slot, too.
    add(ring, NOW, NOW + 400.0, model="model-late")
    assert ring.dropped == {FOLDED: 8}
    assert count(ring, 3_600.0, NOW + 400.0) == 11


def test_the_oldest_goes_first_if_there_are_too_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CELLS", 5)
    ring = Ring()
    for slot in range(10):
        add(ring, NOW + slot * COARSE_SECONDS, NOW + slot * COARSE_SECONDS, 2)
    end = NOW + 9 * COARSE_SECONDS
    assert ring.cells <= 5
    assert count(ring, 3_600.0, end) + ring.dropped[FORGOTTEN] == 20
    assert ring.window(3_600.0, end).seconds < 10 * COARSE_SECONDS


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 200), st.floats(0, 5_000), st.integers(1, 9)), max_size=25))
def test_every_call_is_in_the_hour_or_counted_as_dropped(steps: list[tuple[float, float, int]]) -> None:
    ring = Ring()
    now = NOW
    said: list[tuple[float, int]] = []
    for later, age, number in steps:
        now += later
        before = ring.dropped[TOO_OLD]
        add(ring, now - age, now, number)
        if ring.dropped[TOO_OLD] == before:
            said.append((now - age, number))
        else:
            assert age > 12 * COARSE_SECONDS
    oldest = now // COARSE_SECONDS - COARSE_SLOTS + 1
    expected = sum(number for at, number in said if at // COARSE_SECONDS >= oldest)
    assert count(ring, 13 * COARSE_SECONDS, now) == expected


def test_names_are_bounded_and_nobody_fills_a_slot_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPORTER_BYTES", 20_000)
    ring = Ring()
    names = {f"{number:0255}": 1 for number in range(64)}
    for number in range(50):  # each names a model, and 64 bindings and reasons as long as they may be
        add(ring, NOW, NOW, model=f"model-{number}", allowed=names, denied=names)
    found = ring.window(60.0, NOW).tallies
    assert len(found) == 2
    assert sum(len(name) for tally in found.values() for name in (*tally.allowed, *tally.denied)) < 5 * 64 * 255
    assert (count(ring, 60.0, NOW), ring.dropped) == (50, {FOLDED: 49})
    ring.add("spiffe://mesh.test/ns/serving/sa/other", calls(count=3), NOW - 5.0, NOW, NOW)
    assert ring.dropped == {FOLDED: 49}
    # The whole is bounded, too, and so is a slot to which late reports are added.
    monkeypatch.setattr(module, "SLOT_BYTES", 30_000)
    monkeypatch.setattr(module, "MOST_BYTES", 90_000)
    for slot in range(1, 9):
        now = NOW + slot * COARSE_SECONDS
        for number in range(5):
            add(ring, now - 2.0, now, model=f"late-{number}", allowed=names)
            add(ring, now - COARSE_SECONDS, now, model=f"late-{number}", allowed=names)
        ring.advance(now + 5.0)
        assert sum(len(cell) for cells in ring._coarse.sealed.values() for cell in cells.values()) < 200_000
    assert ring.dropped[FORGOTTEN]
    assert count(ring, 3_600.0, now + 5.0) + ring.dropped[FORGOTTEN] == 53 + 8 * 10


def test_latencies_are_bounded_as_names_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all buckets that there are they take more than the edge; in a slot that is over, a tenth of that."""
    monkeypatch.setattr(module, "SLOT_BYTES", 400_000)
    monkeypatch.setattr(module, "MOST_BYTES", 400_000)
    wide = dict.fromkeys(range(150), 10**6)
    ring = Ring()
    for slot in range(1, 9):
        now = NOW + slot * COARSE_SECONDS
        for number in range(30):
            add(ring, now, now, model=f"model-{number}", total=wide, upstream=wide, proxy=wide)
            add(ring, now - COARSE_SECONDS, now, model=f"late-{number}", total=wide, upstream=wide, proxy=wide)
        assert len(ring.fine.open) <= 400_000 // (3 * 150 * 80) + 2
        ring.advance(now + 5.0)
        sealed = [
            cell for slots in (ring.fine, ring._coarse) for cells in slots.sealed.values() for cell in cells.values()
        ]
        assert sum(map(len, sealed)) < 400_000
    assert ring.dropped[FOLDED]
    assert ring.dropped[FORGOTTEN]
    assert count(ring, 3_600.0, now + 5.0) + ring.dropped[FORGOTTEN] == 8 * 60


def test_a_clock_that_was_set_back() -> None:
    ring = Ring()
    add(ring, NOW + 1e8, NOW + 1e8, 7)
    for step in range(1_000):
        add(ring, NOW + 5.0 * step, NOW + 5.0 * step)
    end = NOW + 5.0 * 999
    assert ring.dropped[FORGOTTEN] == 7
    assert count(ring, 60.0, end) == 13
    assert ring.window(60.0, end).seconds == 60.0
    assert ring.cells < 60


def test_a_clock_that_is_set_back_by_little_counts_nothing_twice() -> None:
    ring = Ring()
    add(ring, NOW, NOW, 3)
    for step in range(20):
        add(ring, NOW - 20.0 + step, NOW - 20.0 + step)
    assert (count(ring, 60.0, NOW), count(ring, 3_600.0, NOW)) == (23, 23)
    add(ring, NOW + 10.0, NOW + 10.0)
    assert (count(ring, 60.0, NOW + 10.0), count(ring, 3_600.0, NOW + 10.0)) == (24, 24)
    assert not ring.dropped


def test_edges_of_one_slot_are_added_to_the_hour_as_one_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of replicas are: what is not yet in the hour's slots is in its window all the same."""
    ring = Ring()
    for _ in range(100):
        add(ring, NOW, NOW)
    assert ring._coarse.open == {}
    assert count(ring, 3_600.0, NOW) == 100
    ring.advance(NOW + 5.0)
    (tally,) = ring._coarse.open.values()
    assert tally.calls == 100
    assert count(ring, 3_600.0, NOW + 5.0) == 100
    # What is folded in the hour's slot only is counted then.
    monkeypatch.setattr(module, "MOST_EDGES", 1)
    add(ring, NOW + 5.0, NOW + 5.0, 4, model="other")
    ring.advance(NOW + 10.0)
    assert ring.dropped == {FOLDED: 4}
    assert count(ring, 3_600.0, NOW + 10.0) == 104
