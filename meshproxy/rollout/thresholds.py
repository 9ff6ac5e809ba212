"""Mode `thresholds`: fixed limits for one window, as Flagger has them. Windows out of range are counted, and the
`threshold`th rolls back, in a row or not.

Two differences. Failures are told by gRPC status: Flagger's query for Istio counts HTTP 5xx, and a gRPC call that fails
is HTTP 200. A window with too few calls is no failed check: Flagger's "no values found" is one, so an idle canary is
rolled back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from meshproxy.rollout.distributions import Distributions
from meshproxy.rollout.quantiles import quantile
from meshproxy.rollout.verdict import Outcome, Verdict
from meshproxy.rollout.window import ArmWindow, Blame

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshproxy.rollout.analysis import Analysis, Limit


def _success(window: ArmWindow, _: float) -> float | None:
    return 100 - 100 * window.failed(Blame.ARM) / window.calls if window.calls else None


def _duration(window: ArmWindow, share: float) -> float | None:
    return quantile(window.latency, share) * 1e3 if window.latency else None


def _example_duration(window: ArmWindow, share: float) -> float | None:
    return quantile(window.latency_per_example, share) * 1e3 if window.latency_per_example else None


def _nan(window: ArmWindow, _: float) -> float | None:
    return 100 * window.nan_answers / window.answers if window.answers else None


def _size(window: ArmWindow, _: float) -> float | None:
    return quantile(window.sizes, 0.5) if window.sizes else None


def _disagreement(window: ArmWindow, _: float) -> float | None:
    return 100 * window.disagreements / window.shadows if window.shadows else None


READINGS: dict[str, tuple[str, Callable[[ArmWindow, float], float | None]]] = {
    "request-success-rate": ("%", _success),
    "request-duration": ("ms", _duration),
    "example-duration": ("ms", _example_duration),
    "not-a-number": ("%", _nan),
    "response-size": (" bytes", _size),
    "shadow-disagreement": ("%", _disagreement),
}
"""Of one arm and one window: the unit, and how it is read."""


class Checks(msgspec.Struct):
    """What is remembered of a rollout. Kept over restarts of the control plane."""

    failed: int = 0
    """Windows out of range, of the whole rollout."""


def check(analysis: Analysis, checks: Checks, candidate: ArmWindow, stable: ArmWindow) -> Verdict:
    """Judges one window, and counts it in `checks` if it is out of range."""
    if candidate.calls < analysis.samples.calls:
        return Verdict(
            Outcome.INSUFFICIENT,
            (f"the candidate had {candidate.calls} calls in this window, and {analysis.samples.calls} are needed",),
        )
    wrong: list[str] = []
    unknown: list[str] = []
    for limit in analysis.metrics:
        outside = _outside(limit, candidate, stable)
        if outside is None:
            unknown.append(f"there is no {limit.name} in this window")
        else:
            wrong.extend(outside)
    if wrong:
        checks.failed += 1
        if checks.failed >= analysis.threshold:
            return Verdict(Outcome.FAIL, (*wrong, f"{checks.failed} checks have failed"))
        wrong.append(f"{checks.failed} of {analysis.threshold} failed checks")
    held = (*wrong, *unknown)
    return Verdict(Outcome.INSUFFICIENT, held) if held else Verdict(Outcome.PASS)


def _outside(limit: Limit, candidate: ArmWindow, stable: ArmWindow) -> list[str] | None:
    """What is out of range; None: nothing is known."""
    if limit.name in ("class-distribution", "score-distribution"):
        counts, others = (
            (candidate.classes, stable.classes)
            if limit.name == "class-distribution"
            else (candidate.scores, stable.scores)
        )
        psi = _psi(counts, others, limit.name == "score-distribution")
        most = min((each for each in (limit.most, limit.increase) if each is not None), default=None)
        if psi is None:
            return None
        return [f"{limit.name} has PSI {psi:.3g}, above {most:g}"] if most is not None and psi > most else []
    unit, read = READINGS[limit.name]
    value, other = read(candidate, limit.quantile), read(stable, limit.quantile)
    if value is None:
        return None
    found = []
    if limit.least is not None and value < limit.least:
        found.append(f"{limit.name} is {value:.4g}{unit}, below {limit.least:g}{unit}")
    if limit.most is not None and value > limit.most:
        found.append(f"{limit.name} is {value:.4g}{unit}, above {limit.most:g}{unit}")
    if limit.increase is not None and other is not None and _worse(limit.name, value, other) > limit.increase:
        found.append(f"{limit.name} is {value:.4g}{unit}, the stable version's {other:.4g}{unit}")
    return found


def _worse(name: str, value: float, other: float) -> float:
    """In percentage points of a rate, and percent of anything else."""
    if name == "request-success-rate":
        return other - value
    if name in ("not-a-number", "shadow-disagreement"):
        return value - other
    ratio = value / other if other else 1.0
    if name == "response-size" and ratio:
        ratio = max(ratio, 1 / ratio)
    return 100 * (ratio - 1)


def _psi(counts: Mapping[int, int], others: Mapping[int, int], ordered: bool) -> float | None:
    known = Distributions(ordered=ordered)
    known.add(counts, others)
    return known.psi if known.candidate else None
