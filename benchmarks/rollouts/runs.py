"""Whole rollouts, simulated: healthy days, and bad candidates in their first windows."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from benchmarks.rollouts.judges import AnyJudge, Flagger, Kayenta, Sequential, Thresholds
from benchmarks.rollouts.traffic import DAY_WINDOWS, Arm, calls, load, weather
from meshproxy.rollout.analysis import FastKillSettings
from meshproxy.rollout.fast_kill import FastKill

JUDGES: dict[str, Callable[[], AnyJudge]] = {
    "meshproxy": Sequential,
    "thresholds": Thresholds,
    "flagger": Flagger,
    "kayenta": Kayenta,
}
WEIGHTS = (10, 20, 30, 40, 50)
PEAK = 24
"""The window of the day with the most calls."""
STABLE = Arm()


@dataclass(frozen=True, slots=True)
class Day:
    """A healthy rollout of `windows` windows, a day long."""

    name: str
    peak: int = 1_000
    """Calls of a window, of both arms, at the peak."""
    sigma: float = 0.4
    errors: float = 0.002
    windows: int = DAY_WINDOWS


DAYS = (
    Day("usual: 1,000 calls a window at the peak"),
    Day("wide: latency spread over a factor of 2.7", sigma=1.0),
    Day("failing: 2 % of all calls", errors=0.02),
    Day("rare: 100 calls a window at the peak", peak=100),
)


@dataclass(frozen=True, slots=True)
class Case:
    """A candidate, in windows of some calls of each arm at the peak."""

    name: str
    arm: Arm
    count: int = 500
    stable: int = 500
    windows: int = 3
    sigma: float = 0.4
    errors: float = 0.002


def day(judge: str, scenario: Day, seed: int) -> str:
    """Why a healthy rollout was rolled back; empty if it was not."""
    chance = np.random.default_rng(seed)
    verdicts = JUDGES[judge]()
    begins = int(chance.integers(DAY_WINDOWS))
    for number in range(scenario.windows):
        window = begins + number
        now = weather(chance, window, scenario.sigma, scenario.errors)
        count = int(chance.poisson(scenario.peak * load(window)))
        weight = WEIGHTS[number * len(WEIGHTS) // scenario.windows]
        mine = int(chance.binomial(count, weight / 100))
        why = verdicts.fails(calls(chance, STABLE, now, mine), calls(chance, STABLE, now, count - mine))
        if why:
            return why
    return ""


def found(judge: str, case: Case, seed: int) -> int:
    """The window, counted from 1, in which a candidate was rolled back; 0 if it was not."""
    chance = np.random.default_rng(seed)
    verdicts = JUDGES[judge]()
    for number in range(case.windows):
        now = weather(chance, PEAK, case.sigma, case.errors)
        if verdicts.fails(calls(chance, case.arm, now, case.count), calls(chance, STABLE, now, case.stable)):
            return number + 1
    return 0


def kill(errors: float, stable_errors: float, outage: bool, most: int, seed: int) -> int:
    """After how many calls of the candidate, at weight 50, a sidecar killed it; 0 if it did not. `outage`: twenty calls
    in a row fail in both arms, once in a thousand."""
    chance = np.random.default_rng(seed)
    watch = FastKill(FastKillSettings())
    ours, theirs = chance.random(most) < errors, chance.random(most) < stable_errors
    if outage:
        for at in np.flatnonzero(chance.random(most) < 0.001):
            ours[at : at + 20] = theirs[at : at + 20] = True
    for number, (failed, stable_failed) in enumerate(zip(ours.tolist(), theirs.tolist(), strict=True)):
        watch.add_stable(stable_failed)
        if watch.add_candidate(failed):
            return number + 1
    return 0


def power(pool: ProcessPoolExecutor, judge: str, case: Case, runs: int, seed: int) -> float:
    """The share of runs in which a candidate is found within the windows of the case."""
    windows = pool.map(partial(found, judge, case), range(seed, seed + runs), chunksize=25)
    return sum(window > 0 for window in windows) / runs


def by_window(pool: ProcessPoolExecutor, judge: str, case: Case, runs: int, seed: int) -> list[float]:
    """The share of runs in which a candidate has been found by each window."""
    windows = list(pool.map(partial(found, judge, case), range(seed, seed + runs), chunksize=5))
    return [sum(0 < window <= number for window in windows) / runs for number in range(1, case.windows + 1)]


def stable_has(case: Case, stable: int) -> Case:
    """The same with another number of calls of the stable version."""
    return replace(case, stable=stable)
