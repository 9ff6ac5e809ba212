"""Four judges over the same calls: ours in both modes, and Flagger's and Kayenta's.

The last two are small reimplementations from their documentation and sources, for this comparison:

- Flagger (fluxcd/flagger, docs/gitbook/usage/how-it-works.md): per window the success rate has to be 99 % and the 99th
  percentile below a limit. Failed checks are counted over the rollout; at the threshold it is rolled back. Its limit
  here is 1.2 times the 99th percentile of a healthy peak, its threshold 3: with the 10 of its documentation it cannot
  be faster than ten windows. Success is by gRPC status here; its own query sees HTTP 200 and is blind.
- Kayenta (spinnaker/kayenta, NetflixACAJudge, MannWhitneyClassifier): of both arms, metrics minute by minute, ten
  minutes a window; a two-sided Mann-Whitney U test with 98 % confidence on all minutes so far, after each window.
  "High" if the lower bound of the Hodges-Lehmann shift is above a quarter of its estimate. Both metrics, error rate and
  99th percentile, are critical. Its analysis interval is a window here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy import stats

from meshproxy.rollout.analysis import Analysis, Limit, Samples
from meshproxy.rollout.judge import Judge, State
from meshproxy.rollout.thresholds import Checks, check
from meshproxy.rollout.verdict import Outcome

if TYPE_CHECKING:
    from benchmarks.rollouts.traffic import Calls, Numbers

MINUTES = 10
CONFIDENCE = 0.98
TOLERANCE = 0.25
HEALTHY_P99 = 0.143
"""Seconds, at the peak: of a million calls."""


class AnyJudge(Protocol):
    """Takes windows."""

    def fails(self, candidate: Calls, stable: Calls) -> str:
        """Takes one window. The reason of a rollback, or nothing."""


class Sequential:
    """Ours."""

    def __init__(self, analysis: Analysis | None = None) -> None:
        self._judge = Judge(analysis or Analysis(), State())

    def fails(self, candidate: Calls, stable: Calls) -> str:
        verdict = self._judge.add(candidate.window, stable.window)
        return "; ".join(verdict.reasons) if verdict.outcome is Outcome.FAIL else ""


class Thresholds:
    """Ours, with the limits of Flagger below; 50 calls make a window."""

    def __init__(self) -> None:
        limits = (Limit("request-success-rate", least=99.0), Limit("request-duration", most=1_200 * HEALTHY_P99))
        self._analysis = Analysis(metrics=limits, threshold=3, samples=Samples(calls=50))
        self._checks = Checks()

    def fails(self, candidate: Calls, stable: Calls) -> str:
        verdict = check(self._analysis, self._checks, candidate.window, stable.window)
        return "; ".join(verdict.reasons) if verdict.outcome is Outcome.FAIL else ""


class Flagger:
    """Flagger's."""

    def __init__(self) -> None:
        self._failed = 0

    def fails(self, candidate: Calls, stable: Calls) -> str:
        count = len(candidate.failed)
        good = len(candidate.latency)
        idle = not count or not good  # "no values found"
        bad = idle or good / count < 0.99 or float(np.quantile(candidate.latency, 0.99)) > 1.2 * HEALTHY_P99
        self._failed += bad
        return "threshold" if self._failed >= 3 else ""


class Kayenta:
    """Kayenta's."""

    def __init__(self) -> None:
        self._minutes: tuple[tuple[list[float], list[float]], ...] = (([], []), ([], []))

    def fails(self, candidate: Calls, stable: Calls) -> str:
        for side, arm in enumerate((candidate, stable)):
            for part in np.array_split(arm.failed, MINUTES):
                if len(part):
                    self._minutes[0][side].append(float(part.mean()))
            for calls in np.array_split(arm.latency, MINUTES):
                if len(calls):
                    self._minutes[1][side].append(float(np.quantile(calls, 0.99)))
        for name, (ours, theirs) in zip(("errors", "p99"), self._minutes, strict=True):
            if _is_high(np.array(ours), np.array(theirs)):
                return name
        return ""


def _is_high(candidate: Numbers, stable: Numbers) -> bool:
    if (
        len(candidate) < 2
        or len(stable) < 2
        or not (candidate != candidate[0]).any()
        or not (stable != stable[0]).any()
    ):
        return False
    differences = np.sort(np.subtract.outer(candidate, stable).ravel())
    estimate = float(np.median(differences))
    count, other = len(candidate), len(stable)
    deviation = (count * other * (count + other + 1) / 12) ** 0.5
    rank = int(count * other / 2 - float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * deviation)
    lower = float(differences[max(rank, 0)])
    return lower > TOLERANCE * abs(estimate) and lower > 0
