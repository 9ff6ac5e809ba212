"""A burst is seen within a few calls; one that both arms have is none."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.rollout.analysis import FastKillSettings
from meshproxy.rollout.fast_kill import FastKill
from tests.thorough import tries


def calls_until(watch: FastKill, failed: bool = True, most: int = 100) -> int:
    return next((number for number in range(1, most + 1) if watch.add_candidate(failed)), 0)


def test_seven_failures_in_a_row() -> None:
    watch = FastKill(FastKillSettings())
    for _ in range(1_000):
        watch.add_stable(False)
        assert not watch.add_candidate(False)
    assert calls_until(watch) == 7
    assert watch.tripped


def test_it_trips_once() -> None:
    watch = FastKill(FastKillSettings())
    calls_until(watch)
    assert not watch.add_candidate(True)
    assert watch.tripped


def test_where_both_fail_nothing_is_killed() -> None:
    watch = FastKill(FastKillSettings())
    for _ in range(500):
        watch.add_stable(True)
        assert not watch.add_candidate(True)


def test_after_an_outage_of_both_it_watches_again() -> None:
    watch = FastKill(FastKillSettings())
    for _ in range(100):
        watch.add_stable(True)
        watch.add_candidate(True)
    for _ in range(300):
        watch.add_stable(False)
        watch.add_candidate(False)
    assert 0 < calls_until(watch) < 12


def test_single_failures_do_not_add_up() -> None:
    watch = FastKill(FastKillSettings())
    chance = random.Random(2)
    for _ in range(5_000):
        watch.add_stable(chance.random() < 0.01)
        assert not watch.add_candidate(chance.random() < 0.04)


def test_it_can_be_switched_off() -> None:
    assert calls_until(FastKill(FastKillSettings(enabled=False))) == 0


@settings(max_examples=tries(50))
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=200))
def test_it_never_trips_without_a_failure_of_the_candidate(calls: list[tuple[bool, bool]]) -> None:
    watch = FastKill(FastKillSettings())
    failures = 0
    for candidate, failed in calls:
        if candidate:
            failures += failed
            watch.add_candidate(failed)
        else:
            watch.add_stable(failed)
        assert not watch.tripped or failures >= 7
