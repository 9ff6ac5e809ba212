"""What model servers say of the time of calls, over some minutes."""

from __future__ import annotations

from bisect import bisect_left

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.control_api import ReportedTime
from meshproxy.telemetry.quantiles import BOUNDS, quantiles
from meshproxy.view import hop_times as module
from meshproxy.view.hop_times import MOST, MOST_LAGS, SECONDS, HopTimes
from tests.thorough import tries

NOW = 1e9
FRAUD = "spiffe://mesh.test/ns/serving/sa/fraud"


def reading(calls: int, model: float, lag: float) -> ReportedTime:
    return ReportedTime(calls, calls * model, calls * lag, {bisect_left(BOUNDS, lag): calls})


def test_one_slow_link_is_seen_in_the_percentiles_and_not_in_the_mean() -> None:
    times = HopTimes()
    for pod in range(20):
        times.add(FRAUD, "fraud", reading(100, 0.004, 0.080 if pod == 7 else 0.0005), NOW)
    found = times.models(NOW)["fraud"]
    p50, p99 = quantiles((0.5, 0.99), found.lag)
    assert found.model == pytest.approx(0.004)
    assert found.network == pytest.approx(0.004475)
    assert p50 == pytest.approx(0.0005, rel=0.1)
    assert p99 == pytest.approx(0.080, rel=0.1)


def test_every_call_counts_as_much_as_any_other() -> None:
    times = HopTimes()
    times.add(FRAUD, "fraud", reading(900, 0.001, 0.001), NOW)
    times.add("spiffe://mesh.test/ns/serving/sa/other", "fraud", reading(100, 0.011, 0.002), NOW)
    found = times.models(NOW)["fraud"]
    assert (found.model, found.network) == (pytest.approx(0.002), pytest.approx(0.0011))
    assert sum(found.lag.values()) == 1_000


def test_a_report_of_an_earlier_version_is_one_reading() -> None:
    """It tells the sum alone; and one of ours is read by a control plane that knows of nothing else."""
    times = HopTimes()
    old = msgspec.json.decode(b'{"calls":50,"model":0.2,"network":0.05}', type=ReportedTime)
    times.add(FRAUD, "fraud", old, NOW)
    assert times.models(NOW)["fraud"].lag == {bisect_left(BOUNDS, 0.001): 50}
    sent = msgspec.json.decode(msgspec.json.encode(reading(50, 0.004, 0.001)))
    assert {name: sent[name] for name in ("calls", "model", "network")} == {"calls": 50, "model": 0.2, "network": 0.05}


@given(st.floats(0, 2 * SECONDS), st.floats(0, 2 * SECONDS))
@settings(max_examples=tries(50))
def test_it_is_shown_for_half_the_time_at_least_and_no_longer(start: float, later: float) -> None:
    times = HopTimes()
    times.add(FRAUD, "fraud", reading(20, 0.004, 0.001), NOW + start)
    is_shown = "fraud" in times.models(NOW + start + later)
    assert is_shown or later > SECONDS / 2 - 1e-3
    assert not is_shown or later <= SECONDS


def test_a_clock_that_is_set_back_begins_anew() -> None:
    times = HopTimes()
    times.add(FRAUD, "fraud", reading(20, 0.004, 0.001), NOW)
    assert times.models(NOW - 10 * SECONDS) == {}
    times.add(FRAUD, "fraud", reading(30, 0.004, 0.001), NOW - 10 * SECONDS)
    assert sum(times.models(NOW - 10 * SECONDS)["fraud"].lag.values()) == 30


def test_no_calls_are_nothing() -> None:
    times = HopTimes()
    times.add(FRAUD, "fraud", ReportedTime(0, 1.0, 1.0), NOW)
    assert times.models(NOW) == {}
    times.add(FRAUD, "fraud", ReportedTime(5, 1.0, 1.0, {3: 0}), NOW)
    assert times.models(NOW)["fraud"].lag == {}


def test_names_make_room_for_those_that_are_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    times = HopTimes()
    for name in ("a", "b", "c", "a", "d"):
        times.add(FRAUD, name, reading(20, 0.004, 0.001), NOW)
    assert set(times.models(NOW)) == {"a", "c", "d"}
    assert MOST == 2_000


@given(st.lists(st.dictionaries(st.integers(0, 256), st.integers(0, 2**53), max_size=257), max_size=4))
@settings(max_examples=25)
def test_whatever_is_reported_takes_few_buckets_and_no_call_is_lost(said: list[dict[int, int]]) -> None:
    times = HopTimes()
    for lag in said:
        times.add(FRAUD, "fraud", ReportedTime(1, 0.0, 0.0, lag), NOW)
    found = times.models(NOW)
    if said:
        lag = found["fraud"].lag
        assert len(lag) <= MOST_LAGS
        empty = sum(not each for each in said)  # read as one call of an earlier version
        assert sum(lag.values()) == sum(sum(each.values()) for each in said) + empty
