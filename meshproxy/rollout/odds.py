"""Is something more frequent in one arm than in the other, or than a limit allows? Of each window, one factor for
each alternative, for `Evidence`.

**Two arms.** N calls, n of them of the candidate; K of all failed, k of them of the candidate. If both arms are equal,
k has the hypergeometric distribution, whatever the rate of failures was in that window: rush hours and outages that hit
both arms alike drop out. If the candidate's odds of failing are `r` times the stable version's, it has Fisher's
noncentral one, and the factor is r**k / E[r**k], the ratio of both. Exact for all sizes. Given the failures, it is
Lindon and Malek's multinomial test (arXiv 2011.03567) with two cells, without their large-sample approximation for the
shares of traffic.

**A limit.** k of n against the share p: the ratio of two binomial probabilities.
"""

from __future__ import annotations

from math import exp, lgamma, log

RATIOS = (1.2, 1.5, 2.0, 3.0, 6.0, 20.0)
"""The alternatives, as ratios of odds. Each grows where the true ratio is above about its root."""
_LOGS = tuple(log(ratio) for ratio in RATIOS)
_NEGLIGIBLE = 1e-15


def two_arms(events: int, calls: int, other_events: int, other_calls: int) -> tuple[float, ...]:
    """Logarithms of the factors, one for each of `RATIOS`: "more frequent among `calls` than among `other_calls`"."""
    total = events + other_events
    if not total or not calls or not other_calls or total == calls + other_calls:
        return (0.0,) * len(RATIOS)
    return tuple(events * step - _log_mean(step, total, calls, calls + other_calls) for step in _LOGS)


def against(events: int, calls: int, share: float) -> tuple[float, ...]:
    """The same for "more frequent than `share`", which is above 0 and below 1."""
    return tuple(
        events * step - calls * log(1.0 + share * (ratio - 1.0)) for step, ratio in zip(_LOGS, RATIOS, strict=True)
    )


def _log_mean(step: float, total: int, drawn: int, size: int) -> float:
    """log E[e^(step k)] for k of `total` among `drawn` of `size` without replacement.

    Summed from the largest term, in both directions, until terms are negligible: some ten standard deviations.
    """
    ratio = exp(step)
    least, most = max(0, drawn + total - size), min(drawn, total)
    # The mode is a root of (total - k)(drawn - k) ratio = k (size - total - drawn + k).
    a = ratio - 1.0
    b = ratio * (total + drawn) + (size - total - drawn)
    c = ratio * total * drawn
    at = int(2 * c / (b + (b * b - 4 * a * c) ** 0.5))
    at = min(max(at, least), most)
    whole = 1.0
    for towards, end in ((1, most), (-1, least)):
        term, k = 1.0, at
        while k != end and term > _NEGLIGIBLE:
            if towards > 0:
                term *= ratio * (total - k) * (drawn - k) / ((k + 1) * (size - total - drawn + k + 1))
            else:
                term *= k * (size - total - drawn + k) / (ratio * (total - k + 1) * (drawn - k + 1))
            k += towards
            whole += term
    largest = _log_choose(total, at) + _log_choose(size - total, drawn - at) - _log_choose(size, drawn) + step * at
    return largest + log(whole)


def _log_choose(of: int, k: int) -> float:
    return lgamma(of + 1) - lgamma(k + 1) - lgamma(of - k + 1)
