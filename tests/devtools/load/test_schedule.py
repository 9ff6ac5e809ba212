from __future__ import annotations

import select
import time

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.devtools.load.schedule import Timer, poisson, uniform


def test_uniform_starts_are_equally_far_apart() -> None:
    assert list(uniform(4.0, 1.0)) == [0.0, 0.25, 0.5, 0.75]


@given(st.floats(1, 5_000), st.floats(0.1, 3))
def test_uniform_starts_do_not_drift(rate: float, duration: float) -> None:
    starts = uniform(rate, duration)
    assert len(starts) == int(rate * duration)
    assert all(abs(start - number / rate) < 1e-9 for number, start in enumerate(starts))


def test_poisson_starts_are_random_but_the_same_for_a_seed() -> None:
    starts = poisson(1_000, 10, seed=7)
    assert starts == poisson(1_000, 10, seed=7)
    assert starts != poisson(1_000, 10, seed=8)
    assert list(starts) == sorted(starts)
    # 10,000 are expected; six standard deviations are 600.
    assert 9_400 < len(starts) < 10_600


def test_a_timer_is_readable_at_its_moment_and_not_after_it_is_cleared() -> None:
    timer = Timer()
    try:
        timer.set(time.monotonic() + 1_000)
        assert select.select([timer.file], [], [], 0)[0] == []
        timer.set(time.monotonic() - 1)
        assert select.select([timer.file], [], [], 5)[0] == [timer.file]
        timer.clear()
        assert select.select([timer.file], [], [], 0)[0] == []
        timer.clear()
    finally:
        timer.close()
