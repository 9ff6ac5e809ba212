"""The usual latency of a model, beside a median that is taken of a list."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.upstream.latency import ENOUGH, KEPT, REMEMBERED, Latency
from tests.thorough import tries


def known(seconds: float = 0.1, count: int = KEPT, now: float = 0.0) -> Latency:
    latency = Latency()
    for _ in range(count):
        latency.add(seconds, now)
    return latency


def test_nothing_is_known_until_there_are_enough() -> None:
    latency = known(0.1, ENOUGH - 1)

    assert latency.p50(0.0) == 0.0
    assert not latency.should_refuse(1e-9, 0.0)

    latency.add(0.1, 0.0)

    assert latency.p50(0.0) == 0.1


def test_what_is_old_does_not_count() -> None:
    latency = known(0.1, ENOUGH, now=10.0)

    assert latency.p50(10.0 + REMEMBERED) == 0.1
    assert latency.p50(10.1 + REMEMBERED) == 0.0


def test_a_few_slow_ones_do_not_matter() -> None:
    latency = known(0.1, 40)
    for _ in range(20):
        latency.add(30.0, 0.0)

    assert latency.p50(0.0) == 0.1


def test_is_the_one_in_the_middle() -> None:
    latency = Latency()
    for number in range(41):
        latency.add(float(number * 17 % 41), 0.0)

    assert latency.p50(0.0) == 20.0


def test_half_of_what_is_kept_changes_it() -> None:
    latency = known(10.0)
    for _ in range(KEPT // 2 + 1):
        latency.add(0.1, 1.0)

    assert latency.p50(1.0) == 0.1


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.001, 0.01, 0.1, 1.0]) | st.floats(0.0, 1e4),
            st.sampled_from([0.0, 0.01, 1.0, 5.0]) | st.floats(0.0, 70.0),
            st.integers(1, 30),
        ),
        max_size=30,
    )
)
@settings(max_examples=tries(200))
def test_is_the_median_of_the_last_answers(answers: Sequence[tuple[float, float, int]]) -> None:
    latency = Latency()
    told: list[tuple[float, float]] = []
    now = 0.0
    for seconds, later, times in answers:
        now += later
        for _ in range(times):
            latency.add(seconds, now)
            told.append((now, seconds))
        recent = sorted(took for when, took in told[-KEPT:] if when >= now - REMEMBERED)

        expected = recent[len(recent) // 2] if len(recent) >= ENOUGH else 0.0
        assert latency.p50(now) == expected


def test_enough_time_is_never_refused() -> None:
    latency = known(0.1)

    assert not any(latency.should_refuse(0.1, step * 0.001) for step in range(1000))


def test_no_time_is_always_refused() -> None:
    latency = Latency()

    assert all(latency.should_refuse(0.0, step * 0.1) for step in range(1000))
    assert latency.should_refuse(-1.0, 1000.0)


@pytest.mark.parametrize("rate", [2, 100, 2000])
def test_a_wrong_median_refuses_for_a_second_at_most(rate: int) -> None:
    """The model has become fast; all calls have less time than it took before."""
    latency = known(1.0)
    assert latency.should_refuse(0.1, 0.0)

    refused = [step / rate for step in range(5 * rate) if latency.should_refuse(0.1, step / rate)]

    assert max(refused) <= REMEMBERED
