"""`python -m benchmarks.hop_lag`: false alarms of hop lag on healthy days, and how fast a rise is found.

Simulated are the two sums that the sidecar compares, its own and those of the model server's page, over whole days:

- calls by Poisson, a tenth of the peak at night; the lag of a call grows with the load;
- what a model takes, and the lag, are log-normal; one lag in a hundred has a Pareto tail up to a second;
- once an hour everything stands still for a moment (exponential, 200 ms on average);
- the model server is restarted each week, and its sums are rounded to six digits, as those of TensorFlow Serving;
- a call that ends while the page is read is counted by one side only.

The sums go through `telemetry/hop_lag.py` and `telemetry/change_detector.py`, as in a sidecar. Every run has a seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.plot import over_time
from meshproxy.inference.tfserving_metrics import ServerTime
from meshproxy.telemetry.change_detector import ChangeDetector, State
from meshproxy.telemetry.hop_lag import CallTime, Pairing, Reading

DAY = 86_400.0
INTERVAL = 15.0
"""Between two pages: the default of `telemetry.modelServer.interval`."""
TAIL_SHARE = 0.01
TAIL = 1.5
"""The exponent of the Pareto tail: its variance is infinite."""
TAIL_FROM, TAIL_TO = 0.002, 1.0
PAUSES = 24 / DAY
PAUSE_SECONDS = 0.2
CROSSING_SECONDS = 0.001
"""From a call's end at the model server to its end at the sidecar."""
UPTIME = 7 * DAY
"""After which a model server is restarted."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One model. Rates are calls a second, times are seconds."""

    name: str
    peak: float
    server: float
    """What the model takes, on average."""
    lag: float
    """At night, on average."""
    growth: float = 0.5
    """By how much of itself the lag is more at the peak."""


SCENARIOS = (
    Scenario("busy, 100/s, 5 ms", 100.0, 0.005, 0.000_4),
    Scenario("usual, 10/s, 20 ms", 10.0, 0.020, 0.000_5),
    Scenario("slow, 2/s, 500 ms", 2.0, 0.500, 0.001),
    Scenario("rare, 0.2/s, 50 ms", 0.2, 0.050, 0.000_5),
    Scenario("far, 20/s, 10 ms, lag doubles", 20.0, 0.010, 0.003, growth=1.0),
)


def load(now: float) -> float:
    """The share of the peak at a time of day: 0.1 at four at night, 1 at four in the afternoon."""
    return 0.55 - 0.45 * math.cos(2 * math.pi * (now / DAY - 4 / 24))


class Day:
    """The sums of one model as they grow. `uptime`: seconds since the model server was started, at the beginning."""

    def __init__(self, scenario: Scenario, chance: random.Random, uptime: float) -> None:
        self._scenario = scenario
        self._chance = chance
        self.ours = CallTime()
        self._up_since = -uptime
        self._calls = int(scenario.peak * 0.55 * uptime)
        self._seconds = self._calls * scenario.server

    def pass_by(self, now: float, rise: float = 0.0) -> None:
        """The calls of one interval, each with `rise` more lag."""
        scenario, chance = self._scenario, self._chance
        busy = load(now)
        count = _poisson(scenario.peak * busy * INTERVAL, chance)
        took = _sum_of_lognormal(count, scenario.server, 1.0, chance)
        lag = _sum_of_lognormal(count, scenario.lag * (1 + scenario.growth * busy), 0.8, chance) + count * rise
        for _ in range(_poisson(count * TAIL_SHARE, chance)):
            lag += min(TAIL_TO, TAIL_FROM * chance.paretovariate(TAIL))
        for _ in range(_poisson(PAUSES * INTERVAL, chance)):
            pause = chance.expovariate(1 / PAUSE_SECONDS)
            lag += _poisson(scenario.peak * busy * pause, chance) * pause / 2
        if now - self._up_since > UPTIME:
            self._calls, self._seconds, self._up_since = 0, 0.0, now
        self._calls += count
        self._seconds += took
        self.ours.calls += count
        self.ours.upstream += took + lag
        self.ours.whole += took + lag + count * 0.000_2

    def page(self, now: float) -> ServerTime:
        """What the model server's page says: perhaps with a call that is still on its way to the sidecar."""
        crossing = _poisson(self._scenario.peak * load(now) * CROSSING_SECONDS, self._chance)
        seconds = self._seconds + _sum_of_lognormal(crossing, self._scenario.server, 1.0, self._chance)
        rounded = float(f"{seconds * 1e6:.6g}") / 1e6
        step = 10.0 ** (math.floor(math.log10(seconds * 1e6)) - 5) / 1e6 if seconds >= 1 else 0.0
        return ServerTime(self._calls + crossing, rounded, step)


@dataclass(frozen=True, slots=True)
class Point:
    """One reading, and what the detector says after it."""

    at: float
    lag: float
    state: State


def watch(
    scenario: Scenario, seed: int, days: float, rise: float = 0.0, rise_at: float = math.inf, uptime: float = 0.0
) -> Iterator[Point]:
    """The readings of some days. From `rise_at` on, each call has `rise` seconds more lag."""
    day = Day(scenario, random.Random(seed), uptime)
    detector = ChangeDetector()
    pairing = Pairing(day.ours.copy(), day.page(0.0), 0.0)
    for number in range(1, int(days * DAY / INTERVAL) + 1):
        now = number * INTERVAL
        day.pass_by(now, rise if now > rise_at else 0.0)
        expected = detector.expected.level if detector.expected is not None else None
        reading = pairing.take(day.ours.copy(), day.page(now), now, expected)
        if isinstance(reading, Reading):
            yield Point(now, reading.lag, detector.add(reading.lag, reading.whole, now))


def false_alarms(scenario: Scenario, seed: int, days: float) -> tuple[int, int]:
    """How often the alarm was raised, and how many readings there were."""
    alarms = readings = 0
    before = State.LEARNING
    for point in watch(scenario, seed, days):
        readings += 1
        alarms += point.state is State.RAISED and before is not State.RAISED
        before = point.state
    return alarms, readings


def time_to_detect(scenario: Scenario, seed: int, rise: float, hour: float, within: float = 3_600.0) -> float | None:
    """Seconds from a rise at this hour, on the sixth day of the model server, to the alarm; None: not within that
    time."""
    at = hour * 3_600
    for point in watch(scenario, seed, (at + within) / DAY, rise, at, uptime=5 * DAY):
        if point.at > at and point.state is State.RAISED:
            return point.at - at
    return None


def _poisson(mean: float, chance: random.Random) -> int:
    if mean > 50:
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    count, product, least = 0, chance.random(), math.exp(-mean)
    while product > least:
        count += 1
        product *= chance.random()
    return count


def _sum_of_lognormal(count: int, mean: float, sigma: float, chance: random.Random) -> float:
    """The sum of `count` log-normal values; of many, by the central limit theorem."""
    if count > 100:
        deviation = mean * math.sqrt(math.exp(sigma * sigma) - 1)
        return max(0.0, chance.gauss(count * mean, deviation * math.sqrt(count)))
    centre = math.log(mean) - sigma * sigma / 2
    return sum(chance.lognormvariate(centre, sigma) for _ in range(count))


def _quantile(times: Sequence[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


RISES = (0.001, 0.002, 0.005, 0.020)


@click.command()
@click.option("--days", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Healthy days of a model.")
@click.option("--runs", type=click.IntRange(1, 1_000), default=20, show_default=True, help="Runs with each rise.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the first run; the others follow.")
@click.option("--picture", type=click.Path(path_type=Path), help="Write a morning with a rise, as SVG.")
def main(days: int, runs: int, seed: int, picture: Path | None) -> None:
    """Count false alarms on simulated healthy days, and measure how long a rise takes to be found."""
    print(f"{'model':32} {'days':>5} {'readings':>9} {'false alarms':>13}")
    for scenario in SCENARIOS:
        alarms, readings = false_alarms(scenario, seed, days)
        print(f"{scenario.name:32} {days:5} {readings:9} {alarms:13}", flush=True)
    print(f"\n{'model':32} {'rise':>6} {'found':>8} {'median':>8} {'p95':>8}   within an hour, at 10 and at 4 o'clock")
    for scenario in SCENARIOS:
        for rise in RISES:
            tried = [time_to_detect(scenario, seed + run, rise, 10 if run % 2 else 4) for run in range(runs)]
            found = [each for each in tried if each is not None]
            times = f"{_quantile(found, 0.5):6.0f} s {_quantile(found, 0.95):6.0f} s" if found else ""
            print(f"{scenario.name:32} {rise * 1e3:3.0f} ms {len(found):4}/{runs:<3} {times}", flush=True)
    if picture is not None:
        picture.write_text(draw(SCENARIOS[1], seed))


def draw(scenario: Scenario, seed: int, rise: float = 0.002) -> str:
    """A morning whose lag rises at ten, for an hour."""
    start, end = 10.0, 11.0
    day = Day(scenario, random.Random(seed), uptime=DAY)
    detector, alarm = ChangeDetector(), []
    pairing = Pairing(day.ours.copy(), day.page(0.0), 0.0)
    lag, expected = [], []
    for number in range(1, int(14 * 3_600 / INTERVAL)):
        now = number * INTERVAL
        hour = now / 3_600
        day.pass_by(now, rise if start <= hour < end else 0.0)
        level = detector.expected.level if detector.expected is not None else None
        reading = pairing.take(day.ours.copy(), day.page(now), now, level)
        if not isinstance(reading, Reading):
            continue
        if detector.add(reading.lag, reading.whole, now) is State.RAISED:
            alarm.append(hour)
        if hour >= 8 and detector.expected is not None:
            lag.append((hour, reading.lag * 1e3))
            expected.append((hour, detector.expected.level * 1e3))
    marked = {"the rise": (start, end), "the alarm": (alarm[0], alarm[-1])}
    caption = f"{scenario.name}; {rise * 1e3:g} ms more from 10:00 to 11:00. Simulated: python -m benchmarks.hop_lag"
    return over_time("Hop lag, and what is expected", {"lag": lag, "expected": expected}, marked, caption)


if __name__ == "__main__":
    main()
