"""`python -m benchmarks.rollouts.stable_traffic`: the tables of docs/drift.md. Weeks of a model that nobody touches,
and of one that changes, five minutes at a time, for `rollout.drift`.

- Calls by Poisson: a tenth of the peak at night, half of everything at weekends.
- Latency: log-normal around 20 ms at night and 30 ms at the peak; one call in fifty has a Pareto tail with exponent
  1.5. The median wanders (`Model.wander`), with a memory of an hour; each week a restart makes a quarter of an hour
  40 % slower.
- Failures: their share wanders by a factor of 2, with a memory of half an hour; each day an outage of five to ten
  minutes fails a tenth of the calls.
- Answers: 300 of an interval at the peak are read. Ten classes and a score by a Beta distribution, whose logits and
  mean wander with a memory of an hour and have a rhythm of the day; NaN in 0.2 % of them, which wanders by a factor
  of 2.

Every run has a seed.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import cos, pi, sqrt
from typing import TYPE_CHECKING, TypeVar

import click
import numpy as np
from scipy import special

from benchmarks.rollouts.traffic import TAIL, TAIL_FROM, TAIL_SHARE
from meshproxy.rollout.drift import OF_ANSWERS, Detector, Signal, State
from meshproxy.rollout.levels import Share, Times
from meshproxy.rollout.mix import Mix
from meshproxy.rollout.window import score_bin
from meshproxy.telemetry.quantiles import BOUNDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

INTERVAL = 300.0
CLASSES = 10
T = TypeVar("T")
A_DAY = 288
A_WEEK = 7 * A_DAY


@dataclass(frozen=True, slots=True)
class Model:
    """One model. `peak`: calls of an interval at the peak."""

    name: str
    peak: float = 3_000.0
    sigma: float = 0.4
    errors: float = 0.002
    wander: float = 0.05
    """Of the median latency: a standard deviation."""


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of it, from some moment on."""

    name: str
    signal: Signal
    errors: float = 0.0
    """Share of failures, beyond those of before."""
    slower: float = 1.0
    nan: float = 0.0
    """Share of the answers with NaN, beyond those of before."""
    moved: float = 0.0
    """Share of the answers of each class that go to the next one."""
    shift: float = 0.0
    """Of the mean score."""


NONE = Change("none", Signal.ERRORS)


class _Wandering:
    """A number that forgets what it was: normal, with this standard deviation and memory (intervals)."""

    def __init__(self, chance: np.random.Generator, deviation: float, memory: float) -> None:
        self._chance = chance
        self._deviation = deviation
        self._keeps = float(np.exp(-1 / memory))
        self._value = deviation * float(chance.standard_normal())

    def next(self) -> float:
        fresh = sqrt(1 - self._keeps**2) * self._deviation
        self._value = self._keeps * self._value + fresh * float(self._chance.standard_normal())
        return self._value


class Traffic:
    """The calls of one model, interval by interval, beginning at midnight of a Monday."""

    def __init__(self, model: Model, chance: np.random.Generator) -> None:
        self._model = model
        self._chance = chance
        self._latency = _Wandering(chance, model.wander, 12)
        self._errors = _Wandering(chance, 0.7, 6)
        self._outage = 0
        self._restart = int(chance.integers(A_WEEK))
        self._answers = Answers(model, chance.spawn(1)[0])

    def fill(self, detectors: dict[Signal, Detector], number: int, change: Change) -> None:
        """Add the calls of interval `number` to the readings."""
        chance, model = self._chance, self._model
        moment = 2 * pi * number / A_DAY
        load = (0.55 - 0.45 * cos(moment)) * (0.5 if number % A_WEEK >= 5 * A_DAY else 1.0)
        calls = int(chance.poisson(model.peak * load))
        share = min(0.5, model.errors * float(np.exp(self._errors.next() - 0.25)))
        if chance.random() < 1 / A_DAY:
            self._outage = int(chance.integers(1, 3))
        if self._outage:
            self._outage -= 1
            share += 0.1
        failed = int(chance.binomial(calls, min(1.0, share + change.errors)))
        if Signal.ERRORS in detectors:
            reading(detectors, Signal.ERRORS, Share).add(failed, calls)
        median = 0.020 * (1 + 0.5 * load) * float(np.exp(self._latency.next())) * change.slower
        if 0 <= number % A_WEEK - self._restart < 3:
            median *= 1.4
        if Signal.UPSTREAM in detectors:
            counts = chance.multinomial(calls - failed, _buckets(median, model.sigma))
            reading(detectors, Signal.UPSTREAM, Times).add(
                {int(bucket): int(counts[bucket]) for bucket in np.flatnonzero(counts)}
            )
        if not detectors.keys().isdisjoint(OF_ANSWERS):
            self._answers.fill(detectors, moment, load, change)


class Answers:
    """What is read of the answers."""

    PEAK = 300
    MEAN, CERTAINTY = 0.7, 7.0
    """Of the Beta distribution: its mean, and the sum of its parameters."""

    def __init__(self, model: Model, chance: np.random.Generator) -> None:
        self._chance = chance
        self._shares = chance.dirichlet(np.full(CLASSES, 3.0))
        self._rhythm = 0.1 * chance.standard_normal(CLASSES)
        self._logits = [_Wandering(chance, model.wander, 12) for _ in range(CLASSES)]
        self._score = _Wandering(chance, model.wander / 5, 12)
        self._nan = _Wandering(chance, 0.7, 6)

    def fill(self, detectors: dict[Signal, Detector], moment: float, load: float, change: Change) -> None:
        """Add the answers of one interval. `moment`: of the day, in radians."""
        chance = self._chance
        read = int(chance.poisson(self.PEAK * load))
        nan = 0.002 * float(np.exp(self._nan.next() - 0.25)) + change.nan
        with_nan = int(chance.binomial(read, min(1.0, nan)))
        if Signal.NAN in detectors:
            reading(detectors, Signal.NAN, Share).add(with_nan, read)
        wander = np.array([each.next() for each in self._logits])
        shares = self._shares * np.exp(wander + self._rhythm * cos(moment))
        shares /= shares.sum()
        shares += change.moved * (np.roll(shares, 1) - shares)
        classes = chance.multinomial(read - with_nan, shares)
        mean = self.MEAN + 0.01 * cos(moment) + self._score.next() + change.shift
        scores = chance.beta(mean * self.CERTAINTY, (1 - mean) * self.CERTAINTY, read - with_nan)
        values, counts = np.unique(np.round(scores, 2), return_counts=True)
        binned: Counter[int] = Counter()
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            binned[score_bin(value)] += count
        if Signal.CLASSES in detectors:
            reading(detectors, Signal.CLASSES, Mix).add(
                {number: int(each) for number, each in enumerate(classes) if each}
            )
        if Signal.SCORES in detectors:
            reading(detectors, Signal.SCORES, Mix).add(binned)


def reading(detectors: dict[Signal, Detector], signal: Signal, kind: type[T]) -> T:
    """What a detector counts in now."""
    found = detectors[signal].reading
    assert isinstance(found, kind)
    return found


def _buckets(median: float, sigma: float) -> Numbers:
    """The chances of the buckets of a latency."""
    bounds = np.array(BOUNDS)
    body = special.ndtr(np.log(bounds / median) / sigma)
    tail = np.where(bounds > TAIL_FROM * median, 1 - (TAIL_FROM * median / bounds) ** TAIL, 0.0)
    below = np.append((1 - TAIL_SHARE) * body + TAIL_SHARE * tail, 1.0)
    return np.diff(below, prepend=0.0)


MODELS = (
    Model("busy: 3,000 calls in five minutes at the peak"),
    Model("usual: 300", peak=300.0),
    Model("steady: 3,000, its latency wanders by 2 %", wander=0.02),
)
CHANGES = (
    Change("failures from 1 % to 3 %", Signal.ERRORS, errors=0.02),
    Change("latency +20 %", Signal.UPSTREAM, slower=1.2),
    Change("latency +50 %", Signal.UPSTREAM, slower=1.5),
    Change("NaN in 2 % more of the answers", Signal.NAN, nan=0.02),
    Change("a third of each class becomes the next one", Signal.CLASSES, moved=0.33),
    Change("scores lower by 0.1", Signal.SCORES, shift=-0.1),
)


def detectors() -> dict[Signal, Detector]:
    """Of one model: all but the proxy's time, which is judged as the model's is."""
    return {signal: Detector(signal, INTERVAL) for signal in Signal if signal is not Signal.PROXY}


def weeks(model: Model, count: int, seed: int) -> dict[str, int]:
    """False alarms by signal in so many weeks without a change, after a first day of learning."""
    chance = np.random.default_rng(seed)
    traffic, watching = Traffic(model, chance), detectors()
    alarms = dict.fromkeys((signal.value for signal in watching), 0)
    for number in range(A_DAY + count * A_WEEK):
        traffic.fill(watching, number, NONE)
        for detector in watching.values():
            has_changed = detector.look((number + 1) * INTERVAL)
            if has_changed and detector.found.state is State.RAISED and number >= A_DAY:
                alarms[detector.signal.value] += 1
    return alarms


def found_after(model: Model, change: Change, seed: int, learned: int = 3 * A_DAY) -> float | None:
    """Hours until a change is found; None: not within a day. It comes at a random time of the day after `learned`
    intervals; only what is raised then counts."""
    chance = np.random.default_rng(seed)
    traffic, watching = Traffic(model, chance), {change.signal: Detector(change.signal, INTERVAL)}
    begins = learned + int(chance.integers(A_DAY))
    for number in range(begins + A_DAY):
        traffic.fill(watching, number, change if number >= begins else NONE)
        for detector in watching.values():
            has_changed = detector.look((number + 1) * INTERVAL)
            if has_changed and detector.found.state is State.RAISED and number >= begins:
                return (number + 1 - begins) * INTERVAL / 3_600
    return None


@click.command(context_settings={"show_default": True})
@click.option("--months", default=4, help="Of four weeks each, of every model, without a change.")
@click.option("--runs", default=20, help="Of every change.")
@click.option(
    "--seed", default=1_001, help="Of the first run; each further one has the next. Below 1,000: used to tune."
)
@click.option("--workers", default=2, help="Processes.")
def main(months: int, runs: int, seed: int, workers: int) -> None:
    """False alarms of drift in weeks without a change, and what is found within a day."""
    with ProcessPoolExecutor(workers) as pool:
        watched = [signal.value for signal in detectors()]
        click.echo(f"| model | weeks | false alarms: {' | '.join(watched)} |\n|---|---|{'---|' * len(watched)}")
        for model in MODELS:
            found = list(pool.map(partial(weeks, model, 4), range(seed, seed + months)))
            counts = [str(sum(each[signal] for each in found)) for signal in watched]
            click.echo(f"| {model.name} | {4 * months} | {' | '.join(counts)} |")
        click.echo("\n| model | change | found within a day | after, median |\n|---|---|---|---|")
        for model in MODELS:
            for change in CHANGES:
                of = replace(model, errors=0.01) if change.signal is Signal.ERRORS else model
                hours = sorted(
                    each for each in pool.map(partial(found_after, of, change), range(seed, seed + runs)) if each
                )
                after = f"{hours[len(hours) // 2]:.1f} h" if hours else "-"
                click.echo(f"| {model.name} | {change.name} | {len(hours)} of {runs} | {after} |")


if __name__ == "__main__":
    main()
