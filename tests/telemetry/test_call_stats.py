"""Calls counted in groups: what a line says, and how lines are added up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.proxy.exchange import AttemptRecord
from meshproxy.refusal import Reason, Refusal
from meshproxy.telemetry.call_filter import CallFilter
from meshproxy.telemetry.call_stats import MOST_GROUPS, CallStats, Group, Interval, add_up
from meshproxy.telemetry.quantiles import BOUNDS

if TYPE_CHECKING:
    from meshproxy.proxy.exchange import Exchange
    from tests.telemetry.conftest import MakeExchange


def everything(exchange: Exchange) -> bool:
    return True


def read(line: bytes) -> Interval:
    assert line.endswith(b"\n")
    return msgspec.json.decode(line, type=Interval)


def test_a_line_of_an_interval(make_exchange: MakeExchange) -> None:
    stats = CallStats(everything, ["model", "version"], 1.0, 1_000.0)
    assert stats.take(1_000.9) == b""
    stats(make_exchange())
    stats(make_exchange(grpc_status=14))
    stats(make_exchange(model="other", version="2"))
    found = read(stats.take(1_001.5))
    assert found.seconds == 1.5
    assert [group.names for group in found.groups] == [
        {"direction": "inbound", "model": "half_plus_two", "version": "latest"},
        {"direction": "inbound", "model": "other", "version": "2"},
    ]
    first = found.groups[0]
    assert (first.calls, first.failed, first.refused, first.received, first.sent) == (2, 1, 0, 120, 600)
    assert first.seconds == pytest.approx(0.006)
    ((bucket, count),) = first.buckets.items()
    assert BOUNDS[bucket - 1] < 0.003 <= BOUNDS[bucket]
    assert count == 2
    assert read(stats.take(1_003.0)) == Interval(1.5, [])
    stats(make_exchange())
    assert read(stats.end(1_003.2)).groups[0].calls == 1


def test_only_what_the_model_server_answered_has_a_latency(make_exchange: MakeExchange) -> None:
    stats = CallStats(everything, [], 1.0, 0.0)
    stats(make_exchange(refusal=Refusal(Reason.PERMISSION_DENIED, "No."), grpc_status=7))
    stats(make_exchange(refusal=Refusal(Reason.RATE_LIMITED, "No."), grpc_status=8))
    stats(make_exchange(is_refused_remotely=True, grpc_status=16))
    stats(make_exchange(first_byte=0.0, status=0, grpc_status=None))
    (group,) = read(stats.take(1.0)).groups
    assert (group.calls, group.refused, group.denied, group.failed) == (4, 3, 2, 1)
    assert (group.buckets, group.seconds) == ({}, 0.0)


def test_further_attempts(make_exchange: MakeExchange) -> None:
    attempt = AttemptRecord("127.0.0.1:8500", 1.0, 1.0, 1.0, 1.0, None, False)
    stats = CallStats(everything, [], 1.0, 0.0)
    stats(make_exchange(attempts=(attempt,) * 3))
    stats(make_exchange(attempts=()))
    assert read(stats.take(1.0)).groups[0].retries == 2


def test_the_filter_counts(make_exchange: MakeExchange) -> None:
    stats = CallStats(CallFilter([("model", "a")]).takes, ["model"], 1.0, 0.0)
    for model in "aba":
        stats(make_exchange(model=model))
    assert [(group.names["model"], group.calls) for group in read(stats.take(1.0)).groups] == [("a", 2)]


def test_callers_cannot_make_groups_without_end(make_exchange: MakeExchange) -> None:
    stats = CallStats(everything, ["model"], 1.0, 0.0)
    for number in range(MOST_GROUPS + 50):
        stats(make_exchange(model=f"m{number}"))
    stats(make_exchange(model="m0"))
    groups = read(stats.take(1.0)).groups
    assert len(groups) == MOST_GROUPS + 1
    assert (groups[0].calls, groups[-1].calls) == (2, 50)
    assert groups[-1].names == {"direction": "inbound", "model": "_other"}
    stats(make_exchange(model="m249"))
    assert read(stats.take(2.0)).groups[0].names["model"] == "m249"


def test_names_that_are_no_text_are_escaped(make_exchange: MakeExchange) -> None:
    stats = CallStats(everything, ["model"], 1.0, 0.0)
    stats(make_exchange(model="a\udcff"))
    assert read(stats.take(1.0)).groups[0].names["model"] == "a\\udcff"


GROUPS = st.builds(
    Group,
    names=st.sampled_from([{"direction": "inbound", "model": name} for name in "abc"]),
    calls=st.integers(0, 99),
    denied=st.integers(0, 99),
    buckets=st.dictionaries(st.integers(0, 5), st.integers(1, 9)),
)
INTERVALS = st.lists(st.builds(Interval, seconds=st.just(1.0), groups=st.lists(GROUPS, max_size=4)), max_size=5)


@given(INTERVALS)
def test_nothing_is_lost_when_lines_are_added_up(intervals: list[Interval]) -> None:
    before = msgspec.json.encode(intervals)
    groups = [group for interval in intervals for group in interval.groups]
    found = add_up(intervals)
    assert sum(group.calls for group in found) == sum(group.calls for group in groups)
    assert sum(group.denied for group in found) == sum(group.denied for group in groups)
    for bucket in range(6):
        assert sum(g.buckets.get(bucket, 0) for g in found) == sum(g.buckets.get(bucket, 0) for g in groups)
    assert len({group.names["model"] for group in found}) == len(found)
    assert msgspec.json.encode(intervals) == before  # they are left as they were
