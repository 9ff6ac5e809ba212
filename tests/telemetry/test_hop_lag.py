"""What the sidecar adds up, and when the sums of both sides give a reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.inference.call import Verb
from meshproxy.inference.tfserving_metrics import NO_TIME, ServerTime
from meshproxy.telemetry.hop_lag import (
    LEAST_CALLS,
    MOST_ERROR,
    MOST_MODELS,
    MOST_NAME,
    MOST_SECONDS,
    MOST_UNEQUAL,
    CallTime,
    CallTimes,
    Doubt,
    Pairing,
    Reading,
)

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange


@pytest.fixture
def times() -> CallTimes:
    return CallTimes("local")


def test_a_call_is_added_to_its_model(times: CallTimes, make_exchange: MakeExchange) -> None:
    times.observe(make_exchange(server="local"))
    times.observe(make_exchange(server="local", verb=Verb.CLASSIFY))
    times.observe(make_exchange(server="local", model="other", is_grpc=False, grpc_status=None))
    found = times.read()
    assert {name: each.calls for name, each in found.items()} == {"half_plus_two": 2, "other": 1}
    assert found["other"].upstream == pytest.approx(0.002)
    assert found["other"].whole == pytest.approx(0.003)
    assert found["other"].proxy > 0


def test_what_is_read_does_not_change(times: CallTimes, make_exchange: MakeExchange) -> None:
    times.observe(make_exchange(server="local"))
    before = times.read()["half_plus_two"]
    times.observe(make_exchange(server="local"))
    assert before.calls == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"server": "elsewhere"},
        {"verb": Verb.MULTI_INFERENCE},
        {"verb": Verb.STATUS},
        {"verb": Verb.METADATA},
        {"status": 404},
        {"grpc_status": 5},
        {"grpc_status": None},
        {"call": None},
        {"connected": 0.0, "first_byte": 0.0},
        {"model": "x" * (MOST_NAME + 1)},
    ],
)
def test_what_the_model_server_does_not_measure(
    times: CallTimes, make_exchange: MakeExchange, fields: dict[str, Any]
) -> None:
    times.observe(make_exchange(**{"server": "local", **fields}))
    assert sum(each.calls for each in times.read().values()) == 0


def test_waiting_for_the_clients_body_is_not_the_networks(times: CallTimes, make_exchange: MakeExchange) -> None:
    times.observe(make_exchange(server="local", received=1_000.0015))
    found = times.read()["half_plus_two"]
    assert found.upstream == pytest.approx(0.001)
    assert found.client == pytest.approx(0.001)


def test_models_are_bounded(times: CallTimes, make_exchange: MakeExchange) -> None:
    for number in range(MOST_MODELS + 10):
        times.observe(make_exchange(server="local", model=f"m{number}"))
    assert len(times.read()) == MOST_MODELS


def test_sums_are_added_up() -> None:
    found = CallTime(1, 1.0, 2.0, 3.0, 4.0) + CallTime(10, 10.0, 20.0, 30.0, 40.0)
    assert (found.calls, found.upstream, found.proxy, found.client, found.whole) == (11, 11.0, 22.0, 33.0, 44.0)


# Pairing


def ours(calls: int, lag: float = 0.001, server: float = 0.01, proxy: float = 0.000_2) -> CallTime:
    return CallTime(calls, calls * (server + lag), calls * proxy, 0.0, calls * (server + lag + proxy))


def theirs(calls: int, server: float = 0.01, step: float = 0.0) -> ServerTime:
    return ServerTime(calls, calls * server, step)


@pytest.fixture
def pairing() -> Pairing:
    return Pairing(CallTime(), theirs(1_000), 0.0)


def test_a_reading(pairing: Pairing) -> None:
    found = pairing.take(ours(100), theirs(1_100), 15.0)
    assert isinstance(found, Reading)
    assert found.calls == 100
    assert found.lag == pytest.approx(0.001)
    assert found.shares == pytest.approx(
        {"model": 0.01 / 0.0112, "network": 0.001 / 0.0112, "proxy": 0.0002 / 0.0112, "client": 0.0}
    )


def test_the_next_one_is_of_the_calls_since(pairing: Pairing) -> None:
    pairing.take(ours(100), theirs(1_100), 15.0)
    later = CallTime(120, ours(100).upstream + 20 * 0.05, whole=20.0)
    found = pairing.take(later, theirs(1_120), 30.0)
    assert isinstance(found, Reading)
    assert found.calls == 20
    assert found.lag == pytest.approx(0.04)


def test_few_calls_are_no_reading_yet(pairing: Pairing) -> None:
    assert pairing.take(ours(LEAST_CALLS - 1), theirs(1_000 + LEAST_CALLS - 1), 15.0) is Doubt.INCOMPLETE
    assert isinstance(pairing.take(ours(LEAST_CALLS), theirs(1_000 + LEAST_CALLS), 30.0), Reading)


def test_an_interval_does_not_go_on_for_ever(pairing: Pairing) -> None:
    pairing.take(ours(10), theirs(1_010), MOST_SECONDS + 1)
    assert pairing.take(ours(29), theirs(1_029), MOST_SECONDS + 15) is Doubt.INCOMPLETE


def test_rounded_sums_take_more_calls(pairing: Pairing) -> None:
    step = 100 * MOST_ERROR
    assert pairing.take(ours(99), theirs(1_099, step=step), 15.0) is Doubt.INCOMPLETE
    assert isinstance(pairing.take(ours(100), theirs(1_100, step=step), 30.0), Reading)


def test_fewer_for_a_lag_that_is_not_the_expected_one(pairing: Pairing) -> None:
    step = 100 * MOST_ERROR
    assert pairing.take(ours(25, 0.001), theirs(1_025, step=step), 15.0, expected=0.001) is Doubt.INCOMPLETE
    assert isinstance(pairing.take(ours(25, 0.005), theirs(1_025, step=step), 15.0, expected=0.001), Reading)


def test_fewer_for_a_slow_model() -> None:
    pairing = Pairing(CallTime(), theirs(0), 0.0)
    step = 100 * MOST_ERROR
    assert isinstance(pairing.take(ours(20, server=1.0), theirs(20, server=1.0, step=step), 15.0), Reading)


def test_other_callers_are_found_out(pairing: Pairing) -> None:
    found = [pairing.take(ours(50), theirs(1_060), 15.0 * turn) for turn in range(1, MOST_UNEQUAL + 1)]
    assert found == [Doubt.UNEQUAL] * (MOST_UNEQUAL - 1) + [Doubt.FOREIGN]
    assert pairing.surplus == 10


def test_so_are_calls_that_it_does_not_measure(pairing: Pairing) -> None:
    found = [pairing.take(ours(50), theirs(1_040), 15.0 * turn) for turn in range(1, MOST_UNEQUAL + 1)]
    assert (found[-1], pairing.surplus) == (Doubt.FOREIGN, -10)


def test_a_call_that_is_on_its_way_is_waited_for(pairing: Pairing) -> None:
    assert pairing.take(ours(50), theirs(1_051), 15.0) is Doubt.UNEQUAL
    assert isinstance(pairing.take(ours(60), theirs(1_060), 30.0), Reading)


def test_of_many_calls_one_does_not_matter(pairing: Pairing) -> None:
    found = pairing.take(ours(1_000), theirs(2_001), 15.0)
    assert isinstance(found, Reading)
    assert found.lag == pytest.approx(0.001)


def test_a_model_server_that_was_restarted(pairing: Pairing) -> None:
    assert pairing.take(ours(100), theirs(50), 15.0) is Doubt.RESTARTED
    assert isinstance(pairing.take(ours(120), theirs(70), 30.0), Reading)
    assert pairing.take(ours(130), NO_TIME, 45.0) is Doubt.RESTARTED


def test_shares_of_odd_readings_are_shares() -> None:
    assert set(Reading(1, 0.0, 0.0, 0.0).shares.values()) == {0.0}
    odd = Reading(1, 1.0, 0.5, 0.6, proxy=0.25, client=0.25)
    assert odd.shares == {"model": 0.5, "network": 0.0, "proxy": 0.25, "client": 0.25}


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5_000),
            st.integers(0, 5_000),
            st.floats(0, 1e3),
            st.floats(0, 1e3),
            st.sampled_from([0.0, 1e-5, 1.0, 1e5]),
            st.sampled_from([None, 0.0, 0.01]),
        ),
        max_size=30,
    )
)
def test_any_sums(steps: list[tuple[int, int, float, float, float, float | None]]) -> None:
    mine, page, now = CallTime(), ServerTime(), 0.0
    pairing = Pairing(mine, page, now)
    seen = 0
    for calls, counted, upstream, seconds, step, expected in steps:
        now += 15.0
        mine = CallTime(mine.calls + calls, mine.upstream + upstream, whole=mine.whole + upstream)
        page = ServerTime(page.calls + counted, page.seconds + seconds, step)
        found = pairing.take(mine, page, now, expected)
        if isinstance(found, Reading):
            seen += found.calls
            assert found.calls >= LEAST_CALLS
            assert sum(found.shares.values()) == pytest.approx(1.0) or found.whole == 0.0
    assert seen <= mine.calls
