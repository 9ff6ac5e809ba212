"""Is something more frequent in one arm than in the other, or than a limit allows? Of each window, one factor for
each alternative, for `Evidence`.

**Two arms.** N calls, n of them of the candidate; K of all failed, k of them of the candidate. If both arms are equal,
k has the hypergeometric distribution, whatever the rate of failures was in that window: rush hours and outages that hit
both arms alike drop out. If the candidate's odds of failing are `r` times the stable version's, it has Fisher's
noncentral one, and the factor is r**k / E[r**k], the ratio of both. Exact for all sizes. Given the failures, it is
Lindon and Malek's multinomial test (arXiv 2011.03567) with two cells, without their large-sample approximation for the
shares of traffic. `r` may depend on n, N and K, of which k says nothing without a difference: where much fails anyway,
it is the ratio that makes two percentage points (`ALTERNATIVES`).

**A limit.** k of n against the share p: the ratio of two binomial probabilities.
"""

from __future__ import annotations

from math import exp, expm1, lgamma, log, log1p

ALTERNATIVES = ((1.3, 1.0), (2.0, 0.03), (4.0, 0.02), (8.0, 0.02), (20.0, 0.02), (20.0, 0.1))
"""What is looked for: a ratio of odds, but no more than this difference of shares. Each grows where the true ratio is
above about its root. A few failures tell ratios alone; of a version that fails 2 % anyway, two percentage points more
are a ratio of 2."""
_NEGLIGIBLE = 1e-15


def two_arms(events: int, calls: int, other_events: int, other_calls: int) -> tuple[float, ...]:
    """Logarithms of the factors, one for each of `ALTERNATIVES`: "more frequent among `calls` than among
    `other_calls`"."""
    total, size = events + other_events, calls + other_calls
    if not total or not calls or not other_calls or total == size:
        return (0.0,) * len(ALTERNATIVES)
    steps = [log_ratio(most, (total - difference * calls) / size, difference) for most, difference in ALTERNATIVES]
    means = {step: _log_mean(step, total, calls, size) for step in set(steps)}
    return tuple(events * step - means[step] for step in steps)


def against(events: int, calls: int, share: float) -> tuple[float, ...]:
    """The same for "more frequent than `share`", which is above 0 and below 1."""
    steps = [log_ratio(most, share, difference) for most, difference in ALTERNATIVES]
    return tuple(events * step - calls * log1p(share * expm1(step)) for step in steps)


def log_ratio(most: float, share: float, difference: float) -> float:
    """The logarithm of the ratio of odds of a share with this difference above it, and at most that of `most`. Shares
    that cannot be have none of their own."""
    higher = share + difference
    if share <= 0 or higher >= 1:
        return log(most)
    return min(log(most), log(higher / (1 - higher) * (1 - share) / share))


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
