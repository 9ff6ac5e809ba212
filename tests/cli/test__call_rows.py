"""Rates, shares and percentiles of groups of calls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.cli._call_rows import MOST_GROUPS, SORTS, Row, Window, sort
from meshproxy.telemetry.call_stats import Group, Interval
from meshproxy.telemetry.quantiles import BOUNDS


def interval(calls: int, seconds: float = 1.0, model: str = "a") -> Interval:
    return Interval(seconds, [Group({"model": model}, calls=calls)] if calls else [])


def row(**fields: object) -> Row:
    return Row(Group({"model": "a"}, **fields), 2.0)  # type: ignore[arg-type]


def test_a_window_adds_up_what_it_has_seen() -> None:
    window = Window()
    for calls in (1, 2, 3):
        window.add("x", interval(calls))
    (found,) = window.rows()
    assert (found.group.calls, window.seconds, found.rate) == (6, 3.0, 2.0)


def test_sources_are_beside_each_other() -> None:
    window = Window()
    window.add("x", interval(4, 2.0))
    window.add("y", interval(6, 1.0))
    (found,) = window.rows()
    assert (found.group.calls, found.rate) == (10, 5.0)
    assert window.spans(["x", "y"], 1.0)
    assert not window.spans(["x", "y"], 1.5)
    assert not window.spans(["x", "z"], 0.5)


def test_a_window_that_slides_forgets() -> None:
    window = Window(2)
    for calls in (1, 2, 3):
        window.add("x", interval(calls))
    window.add("y", interval(9))
    assert window.rows()[0].group.calls == 14
    window.forget("y")
    assert (window.rows()[0].group.calls, window.seconds) == (5, 2.0)


def test_a_window_of_everything_keeps_what_has_ended() -> None:
    window = Window()
    window.add("x", interval(1))
    window.forget("x")
    assert window.rows()[0].group.calls == 1


@pytest.mark.parametrize("most", [None, 60])
def test_names_that_callers_make_up_are_bounded(most: int | None) -> None:
    window = Window(most)
    window.add("a", interval(3, model="real"))
    for number in range(60):
        groups = [each for one in range(200) for each in interval(1, model=f"{number}-{one}").groups]
        window.add("a", Interval(1.0, groups))
    rows = {row.names["model"]: row.group.calls for row in window.rows()}
    assert len(rows) <= MOST_GROUPS + 1
    assert sum(rows.values()) == (12_003 if most is None else 12_000)
    assert rows["_other"] > 6_000


def test_nothing() -> None:
    assert (Window().rows(), Window().seconds, Window().spans([], 1.0)) == ([], 0.0, False)
    empty = Row(Group({}), 0.0)
    assert (empty.rate, empty.success, empty.mean, empty.quantile(0.5)) == (0.0, None, None, None)


@pytest.mark.parametrize(
    ("fields", "share"),
    [
        ({"calls": 10}, 1.0),
        ({"calls": 10, "failed": 1}, 0.9),
        ({"calls": 10, "failed": 1, "denied": 5}, 0.8),
        ({"calls": 10, "denied": 10}, None),
        ({"calls": 1, "failed": 1}, 0.0),
    ],
)
def test_success_is_of_calls_that_were_not_denied(fields: dict[str, int], share: float | None) -> None:
    assert row(**fields).success == share


def test_a_document() -> None:
    found = row(calls=4, failed=1, retries=2, received=8, sent=16, seconds=0.4, buckets={32: 3, 60: 1}).document()
    latency = found.pop("latencySeconds")
    assert found == {
        "model": "a",
        "calls": 4,
        "callsPerSecond": 2.0,
        "success": 0.75,
        "failed": 1,
        "denied": 0,
        "refused": 0,
        "retries": 2,
        "bytesReceived": 8,
        "bytesSent": 16,
    }
    assert isinstance(latency, dict)
    assert latency["mean"] == 0.1
    assert BOUNDS[31] < latency["p50"] < BOUNDS[32] < latency["p95"] < latency["p99"] <= BOUNDS[60]


ROWS = st.lists(
    st.builds(
        row,
        calls=st.integers(0, 50),
        failed=st.integers(0, 50),
        denied=st.integers(0, 50),
        buckets=st.dictionaries(st.integers(0, 160), st.integers(1, 9), max_size=3),
    )
)


@given(ROWS, st.sampled_from(sorted(SORTS)))
def test_any_rows_can_be_sorted_and_shown(rows: list[Row], by: str) -> None:
    found = sort(rows, by)
    assert sorted(map(id, found)) == sorted(map(id, rows))
    keys = [SORTS[by](each) for each in found]
    assert keys == sorted(keys)
    for each in found:
        assert each.success is None or 0 <= each.success <= 1
        each.document()
