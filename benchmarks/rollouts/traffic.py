"""Simulated calls of two arms, window by window. Vectors of numpy; every run has a seed.

- Calls by Poisson; a tenth of the peak at night, once a day.
- Latency: log-normal around 20 ms at night and 30 ms at the peak; one call in fifty has a Pareto tail with exponent
  1.5, whose variance is infinite, up to 30 s.
- Weather, which both arms share: each window is slower or faster by a factor (log-normal, 15 %), fails more or less
  (log-normal, by a factor of 2.7), and in one window of a hundred an outage fails a tenth of the calls of both.
- Outputs of every other answer: ten classes whose shares drift from window to window, scores by a Beta distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, log, pi
from typing import TYPE_CHECKING

import numpy as np

from meshproxy.rollout.window import GROWTH, SHORTEST, ArmWindow, score_bin

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

TAIL_SHARE = 0.02
TAIL_FROM = 3.0
"""Times the median."""
TAIL = 1.5
LONGEST = 30.0
READ = 0.5
"""Of the answers, the share whose outputs are read."""
DAY_WINDOWS = 48


@dataclass(frozen=True, slots=True)
class Arm:
    """What is different about a candidate; the defaults are the stable version."""

    errors: float = 0.0
    """Its share of failed calls, beyond those of the weather."""
    slower: float = 1.0
    """Factor of every call's latency."""
    tail: float = 1.0
    """Factor of the 99th percentile alone: there are more calls in the tail, and the others are as they were."""
    nan: float = 0.0
    """Share of its answers."""
    shift: float = 0.0
    """Of the scores."""
    class_shift: float = 0.0
    """Share of the answers of the first class that go to the second."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What both arms share in one window."""

    load: float
    median: float
    """Seconds."""
    sigma: float
    errors: float
    """Share of failures."""
    outage: float
    """Share of calls that fail in both arms."""
    classes: Numbers


@dataclass(frozen=True, slots=True)
class Calls:
    """Of one arm and one window, call by call: for judges that do not read histograms."""

    window: ArmWindow
    failed: NDArray[np.bool_]
    latency: Numbers
    """Of the successful ones."""


def load(window: int) -> float:
    """The share of the peak."""
    return 0.55 - 0.45 * cos(2 * pi * window / DAY_WINDOWS)


def weather(chance: np.random.Generator, window: int, sigma: float = 0.4, errors: float = 0.002) -> Weather:
    """Of one window of the day. `errors`: the median share of failed calls."""
    share = load(window)
    return Weather(
        share,
        0.020 * (1 + 0.5 * share) * float(np.exp(0.15 * chance.standard_normal())),
        sigma,
        min(0.5, errors * float(np.exp(chance.standard_normal()))),
        0.1 if chance.random() < 0.01 else 0.0,
        chance.dirichlet(np.full(10, 30.0)),
    )


def calls(chance: np.random.Generator, arm: Arm, now: Weather, count: int) -> Calls:
    """Some calls of an arm in that weather."""
    failed = chance.random(count) < min(1.0, arm.errors + now.errors + now.outage)
    good = int(count - failed.sum())
    latency = now.median * np.exp(now.sigma * chance.standard_normal(good))
    tail = chance.random(good) < TAIL_SHARE * arm.tail**TAIL
    latency[tail] = now.median * TAIL_FROM * (1 + chance.pareto(TAIL, int(tail.sum())))
    latency *= arm.slower
    latency = np.minimum(latency, LONGEST)
    read = int(good * READ)
    classes = chance.choice(10, size=read, p=now.classes)
    if arm.class_shift:
        classes[(classes == 0) & (chance.random(read) < arm.class_shift)] = 1
    scores = np.clip(chance.beta(5.0, 2.0, read) + arm.shift, 0.0, 1.0)
    bins, counts = np.unique(np.round(scores, 2), return_counts=True)
    nan = int((chance.random(read) < arm.nan).sum())
    window = ArmWindow(
        calls=count,
        failures={"grpc 13": int(failed.sum())} if failed.any() else {},
        latency=histogram(latency),
        answers=read,
        nan_answers=nan,
        classes=dict(enumerate(np.bincount(classes, minlength=10).tolist())),
    )
    for score, number in zip(bins.tolist(), counts.tolist(), strict=True):
        each = score_bin(score)
        window.scores[each] = window.scores.get(each, 0) + number
    return Calls(window, failed, latency)


def histogram(values: Numbers) -> dict[int, int]:
    """As `window.bucket` would count them."""
    numbers = np.maximum(0, np.floor(np.log(values / SHORTEST) / log(GROWTH))).astype(np.int64)
    bins, counts = np.unique(numbers, return_counts=True)
    return dict(zip(bins.tolist(), counts.tolist(), strict=True))
