"""Token buckets and counters."""

from __future__ import annotations

from meshproxy.codec.h2 import frames
from meshproxy.codec.h2.budgets import Budget, Statistics
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role


def spent(budget: Budget, now: float, tries: int) -> int:
    return sum(budget.spend(now) for _ in range(tries))


def test_burst_then_rate() -> None:
    budget = Budget(rate=8.0, burst=5, now=100.0)
    assert spent(budget, 100.0, 10) == 5
    assert spent(budget, 100.0625, 10) == 0
    assert spent(budget, 100.125, 10) == 1
    assert spent(budget, 100.5, 10) == 3


def test_never_more_than_the_burst() -> None:
    budget = Budget(rate=10.0, burst=5, now=0.0)
    assert spent(budget, 1_000.0, 100) == 5


def test_a_clock_that_goes_back_adds_nothing() -> None:
    budget = Budget(rate=10.0, burst=1, now=50.0)
    assert spent(budget, 50.0, 2) == 1
    assert spent(budget, 10.0, 2) == 0
    assert spent(budget, 50.0, 2) == 0


def test_what_is_earned_counts_up_to_the_burst() -> None:
    budget = Budget(rate=0.0, burst=2, now=0.0)
    assert spent(budget, 0.0, 5) == 2
    assert budget.spend(0.0, earned=1)
    assert not budget.spend(0.0)
    assert budget.spend(0.0, earned=100)
    assert spent(budget, 0.0, 5) == 1


def test_statistics_start_at_zero_and_can_be_shared() -> None:
    shared = Statistics()
    assert all(getattr(shared, name) == 0 for name in Statistics.__slots__)
    connections = [H2Connection(Role.SERVER, Limits(), 0.0, shared) for _ in range(2)]
    assert all(connection.statistics is shared for connection in connections)
    assert H2Connection(Role.SERVER, Limits(), 0.0).statistics is not shared
    assert connections[0].frames_received == [0] * len(frames.NAMES)


def test_what_costs_more_takes_more() -> None:
    budget = Budget(rate=10.0, burst=100, now=0.0)
    assert budget.spend(0.0, cost=90)
    assert not budget.spend(0.0, cost=20)
    assert budget.spend(1.0, cost=20)
    assert not budget.spend(1.0)
