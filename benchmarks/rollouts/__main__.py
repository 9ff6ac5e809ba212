"""`python -m benchmarks.rollouts`: prints the tables of docs/rollouts.md, and draws its pictures."""

from __future__ import annotations

import math
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import click
import numpy as np
from scipy import stats

from benchmarks.plot import shares
from benchmarks.rollouts.runs import DAYS, JUDGES, Case, by_window, day, kill, power, stable_has
from benchmarks.rollouts.traffic import TAIL, TAIL_SHARE, Arm

CASES = (
    Case("+2 % errors", Arm(errors=0.02)),
    Case("+2 % errors, 2 % fail anyway", Arm(errors=0.02), errors=0.02),
    Case("+20 % on every call, so on the p99", Arm(slower=1.2)),
    Case("+20 % on every call, wide latency", Arm(slower=1.2), sigma=1.0),
    Case("+20 % on the p99 alone", Arm(tail=1.2)),
    Case("p99 doubled, the rest as before", Arm(tail=2.0)),
    Case("p99 tripled, the rest as before", Arm(tail=3.0)),
    Case("NaN in 2 % of the answers", Arm(nan=0.02)),
    Case("scores shifted by -0.1", Arm(shift=-0.1)),
    Case("one class of ten answered as another", Arm(class_shift=1.0)),
)
AT_TEN_PER_CENT = 4_500
"""Calls of the stable version, where 500 are a tenth."""
Curves = dict[str, list[tuple[float, float]]]


@click.command(context_settings={"show_default": True})
@click.option("--healthy", default=1_000, help="Healthy rollouts of each kind, judged by ours.")
@click.option("--others", default=50, help="Healthy rollouts judged by the others.")
@click.option("--runs", default=200, help="Runs of each bad candidate.")
@click.option("--seed", default=1, help="Of the first run; each further one has the next.")
@click.option(
    "--pictures", type=click.Path(path_type=Path, file_okay=False), help="Draw the pictures into this folder."
)
@click.option("--workers", default=2, help="Processes.")
def main(healthy: int, others: int, runs: int, seed: int, pictures: Path | None, workers: int) -> None:
    """How often healthy rollouts are rolled back, and how often bad ones within three windows of 500 calls."""
    started = time.monotonic()
    with ProcessPoolExecutor(workers) as pool:
        _healthy(pool, healthy, others, seed)
        _bad(pool, runs, seed)
        _killed(pool, healthy, seed)
        _possible()
        if pictures is not None:
            _draw(pool, runs, seed, pictures)
    click.echo(f"\n{time.monotonic() - started:.0f} s")


def _healthy(pool: ProcessPoolExecutor, ours: int, others: int, seed: int) -> None:
    click.echo("Healthy rollouts of a day, 48 windows, looked at after each: rolled back\n")
    click.echo("| | " + " | ".join(JUDGES) + " |\n|---|" + "---|" * len(JUDGES))
    why: Counter[str] = Counter()
    for scenario in DAYS:
        cells = []
        for judge in JUDGES:
            count = ours if judge == "meshproxy" else others
            reasons = [
                reason
                for reason in pool.map(partial(day, judge, scenario), range(seed, seed + count), chunksize=10)
                if reason
            ]
            if judge == "meshproxy":
                why.update(reasons)
            cells.append(f"{len(reasons)} of {count:,}")
        click.echo(f"| {scenario.name} | " + " | ".join(cells) + " |")
    for reason, count in why.items():
        click.echo(f"{count}: {reason}")


def _bad(pool: ProcessPoolExecutor, runs: int, seed: int) -> None:
    click.echo(f"\nBad candidates: rolled back within 3 windows of 500 calls, of {runs} runs\n")
    click.echo("| | calls of the stable version | " + " | ".join(JUDGES) + " |\n|---|---|" + "---|" * len(JUDGES))
    for case in CASES:
        for stable in (500, AT_TEN_PER_CENT):
            cells = [f"{power(pool, judge, stable_has(case, stable), runs, seed):.0%}" for judge in JUDGES]
            click.echo(f"| {case.name} | {stable:,} | " + " | ".join(cells) + " |")


def _killed(pool: ProcessPoolExecutor, healthy: int, seed: int) -> None:
    click.echo("\nFast kill, in one sidecar\n\n| share of failures | stable version | killed | after calls, median |")
    click.echo("|---|---|---|---|")
    for errors, stable, outage, calls, count in (
        (0.002, 0.002, True, 20_000, healthy),
        (0.02, 0.02, True, 20_000, healthy),
        (0.05, 0.002, False, 20_000, healthy // 10),
        (0.2, 0.002, False, 1_000, healthy),
        (0.5, 0.002, False, 1_000, healthy),
        (1.0, 0.002, False, 1_000, healthy),
        (1.0, 1.0, False, 1_000, healthy),
    ):
        after = [
            each for each in pool.map(partial(kill, errors, stable, outage, calls), range(seed, seed + count)) if each
        ]
        median = sorted(after)[len(after) // 2] if after else 0
        outages = ", and outages of both" if outage else ""
        click.echo(f"| {errors:.1%} | {stable:.1%}{outages} | {len(after)} of {count:,} | {median or '-'} |")


def best_power(ratio: float, calls: int, alpha: float, stable: float = math.inf) -> float:
    """What no test can exceed for a p99 that is `ratio` times as long while the other calls are as before: the test of
    how many calls are in the tail, once, at the end, with the tail known exactly; of `stable` calls of the stable
    version, if they are to be compared. Normal approximation."""
    before, after = TAIL_SHARE, TAIL_SHARE * ratio**TAIL
    spread = math.sqrt(before * (1 - before) * (1 / calls + 1 / stable))
    spread_after = math.sqrt(after * (1 - after) / calls + before * (1 - before) / stable)
    limit = float(stats.norm.isf(alpha)) * spread
    return float(stats.norm.sf((limit - (after - before)) / spread_after))


def best_of_errors(before: float, after: float, calls: int, stable: int, alpha: float) -> float:
    """The power of the most powerful test that never finds equal shares more often than `alpha`, once, at the end:
    Fisher's with a random choice at its limit (Tocher). Exact.

    Args:
        before: the share of `stable` calls of the stable version that fail.
        after: the share of `calls` of the candidate.
    """
    ours = stats.binom.pmf(np.arange(calls + 1), calls, after)
    theirs = stats.binom.pmf(np.arange(stable + 1), stable, before)
    mean, variance = calls * after + stable * before, calls * after * (1 - after) + stable * before * (1 - before)
    power = 0.0
    for total in range(max(0, int(mean - 9 * variance**0.5)), min(calls + stable, int(mean + 9 * variance**0.5)) + 1):
        k = np.arange(max(0, total - stable), min(total, calls) + 1)
        alone = stats.hypergeom.pmf(k, calls + stable, total, calls)
        as_many = np.cumsum(alone[::-1])[::-1]
        is_found = as_many <= alpha
        both = ours[k] * theirs[total - k]
        power += float(both[is_found].sum())
        limit = int((~is_found).sum()) - 1
        if limit >= 0:
            more = float(as_many[limit + 1]) if limit + 1 < len(k) else 0.0
            power += float(both[limit]) * (alpha - more) / float(alone[limit])
    return power


def _possible() -> None:
    click.echo("\nFailures: the most that any test can find in 3 windows of 500 calls, at 1 false alarm in 1,000\n")
    click.echo("| failures | beside 3 x 500 | beside 3 x 4,500 |\n|---|---|---|")
    for share in (0.002, 0.02):
        cells = [f"{best_of_errors(share, share + 0.02, 1_500, 3 * stable, 0.001):.1%}" for stable in (500, 4_500)]
        click.echo(f"| {share:.1%} and {share + 0.02:.1%} | " + " | ".join(cells) + " |")
    click.echo("\n+20 % on the p99 alone: the most that any test can find, at 1 false alarm in 1,000\n")
    click.echo(
        "| calls of the candidate | stable version known exactly | as many of the stable version |\n|---|---|---|"
    )
    for calls in (1_500, 5_000, 15_000, 50_000):
        known, compared = best_power(1.2, calls, 0.001), best_power(1.2, calls, 0.001, calls)
        click.echo(f"| {calls:,} | {known:.0%} | {compared:.0%} |")


def _draw(pool: ProcessPoolExecutor, runs: int, seed: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    caption = f"500 calls of each arm in a window, 3 windows; {runs} runs for each point, seeds from {seed}"
    errors = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05)
    slower = (1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.5)
    by_errors: Curves = {
        judge: [(100 * each, power(pool, judge, Case("", Arm(errors=each)), runs, seed)) for each in errors]
        for judge in JUDGES
    }
    by_slower: Curves = {
        judge: [(100 * each - 100, power(pool, judge, Case("", Arm(slower=each)), runs, seed)) for each in slower]
        for judge in JUDGES
    }
    (folder / "errors.svg").write_text(shares("Rolled back, by how many calls more fail", by_errors, "%", caption))
    (folder / "latency.svg").write_text(shares("Rolled back, by how much slower it is", by_slower, "%", caption))
    windows = 20
    candidates = {
        "+1 % errors": Arm(errors=0.01),
        "+10 % latency": Arm(slower=1.1),
        "p99 +50 % alone": Arm(tail=1.5),
        "p99 x 2 alone": Arm(tail=2.0),
        "healthy": Arm(),
    }
    by_time: Curves = {
        name: list(
            enumerate(by_window(pool, "meshproxy", Case("", arm, windows=windows), max(20, runs // 3), seed), start=1)
        )
        for name, arm in candidates.items()
    }
    caption = f"500 calls of each arm in a window; {max(20, runs // 3)} runs for each line, seeds from {seed}"
    (folder / "windows.svg").write_text(shares("Rolled back, by windows", by_time, "windows", caption))


if __name__ == "__main__":
    main()
