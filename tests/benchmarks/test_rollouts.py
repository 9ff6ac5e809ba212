"""The simulation of rollouts, small and with seeds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

import pytest
from click.testing import CliRunner

from benchmarks.rollouts.__main__ import best_of_errors, best_power, main
from benchmarks.rollouts.runs import DAYS, JUDGES, Case, Day, by_window, day, found, kill, power
from benchmarks.rollouts.traffic import Arm

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor


@pytest.mark.parametrize("judge", list(JUDGES))
def test_every_judge_finds_what_everybody_sees(judge: str) -> None:
    assert found(judge, Case("", Arm(errors=0.3)), 1)


def test_a_healthy_day_is_healthy() -> None:
    assert day("meshproxy", Day("", windows=10), 1) == ""
    assert len({scenario.name for scenario in DAYS}) == len(DAYS)


def test_seeds_repeat_runs() -> None:
    case = Case("", Arm(slower=1.1))
    assert [found("meshproxy", case, 3) for _ in range(2)] == [found("meshproxy", case, 3)] * 2


def test_power_and_its_course() -> None:
    with ThreadPoolExecutor(1) as threads:
        pool = cast("ProcessPoolExecutor", threads)
        assert power(pool, "meshproxy", Case("", Arm(errors=0.2)), 3, 1) == 1.0
        course = by_window(pool, "meshproxy", Case("", Arm(errors=0.01), windows=4), 3, 1)
    assert course == sorted(course)


def test_a_burst_is_killed() -> None:
    assert 0 < kill(1.0, 0.0, False, 100, 1) < 10
    assert kill(0.002, 0.002, True, 2_000, 1) == 0


def test_what_no_test_can_find() -> None:
    """1,500 calls have 30 in the tail; 20 % on the p99 alone make 39 of them."""
    assert best_power(1.2, 1_500, 0.001) < 0.2
    assert best_power(1.2, 1_500, 0.001, 1_500) < best_power(1.2, 1_500, 0.001)
    assert best_power(1.2, 100_000, 0.001, 100_000) > 0.95


def test_what_no_test_can_find_of_failures() -> None:
    """As often as it may without a difference; and of small numbers what can be counted by hand."""
    assert best_of_errors(0.1, 0.1, 60, 90, 0.01) == pytest.approx(0.01, abs=1e-6)
    # One call each. Only "the candidate alone failed" speaks against it, which is half of those with one failure.
    assert best_of_errors(0.0, 1.0, 1, 1, 0.5) == pytest.approx(1.0)
    assert best_of_errors(0.0, 1.0, 1, 1, 0.25) == pytest.approx(0.5)
    assert best_of_errors(0.02, 0.04, 1_500, 1_500, 0.001) == pytest.approx(0.558, abs=0.001)


def test_the_command() -> None:
    done = CliRunner().invoke(main, ["--help"])
    assert done.exit_code == 0
    assert "--pictures" in done.output
