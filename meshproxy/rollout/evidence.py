"""How strong the evidence against "there is no difference" is, at any time: an e-process.

Of each window, a test says by which factor its counts are likelier under an alternative (such as "three times the odds
of a failure") than without a difference. If there is none, that factor is 1 on average, whatever came before, so a
bettor who starts with 1 and stakes everything on the alternative in each window has more than 1,000 *ever* with a
probability of at most 1 in 1,000 (Ville's inequality). Looking after every window costs nothing, which a p-value does
not allow. See Lindon and Malek, arXiv 2011.03567, and Lindon, Sanden and Shirikian, arXiv 2205.14762.

The stake is spread over the alternatives, and over the window in which a difference begins: three quarters of it on the
first one, and 1 / (4 t (t - 1)) on the window t. So a version that turns bad after a hundred good windows is found,
too. Logarithms are natural. Pure.
"""

from __future__ import annotations

from math import exp, inf, log
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_LATER = 0.25


def log_sum(values: Iterable[float]) -> float:
    """The logarithm of a sum of numbers whose logarithms these are; minus infinity of none."""
    logs = list(values)
    most = max(logs, default=-inf)
    if most == -inf:
        return -inf
    return most + log(sum(exp(value - most) for value in logs))


class Evidence(msgspec.Struct):
    """Of one test. Kept over restarts of the control plane."""

    windows: int = 0
    stakes: list[float] = []
    """What the bettor has made of each alternative's stake: logarithms."""

    def add(self, factors: Sequence[float]) -> None:
        """Takes one window. `factors`: logarithms, one for each alternative; always as many."""
        self.windows += 1
        new = log(_staked(self.windows) / len(factors))
        before = self.stakes or [-inf] * len(factors)
        self.stakes = [log_sum((stake, new)) + factor for stake, factor in zip(before, factors, strict=True)]

    @property
    def strength(self) -> float:
        """The logarithm of what the bettor has: 0 says nothing, 6.9 is a thousand to one. What is still to be staked
        is counted."""
        return log_sum((*self.stakes, log(_LATER / self.windows))) if self.windows else 0.0


def _staked(window: int) -> float:
    """The share that is staked on a difference that begins with this window, counted from 1: their sum is 1."""
    return 1 - _LATER if window == 1 else _LATER / (window * (window - 1))
