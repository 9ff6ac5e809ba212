"""When requests are shed, how many, and when no longer."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from meshproxy.codec.h2.budgets import Statistics
from meshproxy.transport.overload import (
    BURST_SECONDS,
    CALM_PERIODS,
    DRAIN_SECONDS,
    GIVEN_UP_LEAST,
    LEAST_SHARE,
    LOWERED,
    PERIOD,
    RAISED,
    Overload,
    thread_busy_seconds,
)

RATE = 1_000


class Process:
    """An event loop that is busy, or not."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.busy = 0.0
        self.statistics = Statistics()
        self.backlog: list[int] = []
        self.overload = Overload(loop, self.backlog, self.statistics, lambda: self.busy)  # type: ignore[arg-type]
        self.overload.expire(loop.now)

    def passes(self, *, requests: int = RATE // 4, resets: int = 0, busy: float = 1.0, late: float = 0.0) -> None:
        """A period."""
        self.loop.now += PERIOD + late
        self.busy += busy * (PERIOD + late)
        self.statistics.requests += requests
        self.statistics.resets_received += resets
        self.overload.expire(self.loop.now)

    def overloaded(self) -> Overload:
        self.passes(resets=100)
        assert self.overload.is_shedding
        return self.overload

    def shed(self, late: float = 0.0) -> float:
        """A period of which every millisecond brings ten requests. Returns how many are admitted, a second."""
        while self.overload.admits():
            pass  # what was left over from the last period
        admitted = 0
        for _ in range(250):
            self.loop.now += 0.001
            admitted += sum(self.overload.admits() for _ in range(10))
        self.loop.now -= PERIOD
        self.passes(late=late)
        return admitted / PERIOD


@pytest.fixture
def process(loop: Any) -> Process:
    return Process(loop)


@pytest.mark.parametrize(
    "period",
    [
        {"requests": 100_000},
        {"resets": 100, "busy": 0.5},
        {"resets": GIVEN_UP_LEAST - 1},
        {"resets": 99, "requests": 1_000},
    ],
    ids=["busy", "not busy", "few resets", "a small share of resets"],
)
def test_nothing_is_shed_while(process: Process, period: dict[str, Any]) -> None:
    for _ in range(20):
        process.passes(**period)
    assert not process.overload.is_shedding


@pytest.mark.parametrize("kind", ["resets_received", "resets_late", "resets_waiting"])
def test_clients_that_give_up_begin_it(process: Process, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    setattr(process.statistics, kind, 100)
    with caplog.at_level(logging.WARNING):
        process.passes()
    assert process.overload.is_shedding
    assert "add replicas" in caplog.text


def test_old_input_is_refused_first(process: Process) -> None:
    process.backlog.append(1)
    overload = process.overloaded()
    process.loop.now += 0.1
    assert not any(overload.admits() for _ in range(100))
    process.backlog.clear()
    assert process.shed() == pytest.approx(RATE, rel=0.1)
    assert overload.refused > 2_000


def test_but_not_for_ever(process: Process) -> None:
    process.backlog.append(1)
    process.overloaded()
    process.loop.now += DRAIN_SECONDS
    assert process.shed() == pytest.approx(RATE, rel=0.1)


def test_a_burst_is_admitted_after_a_pause(process: Process) -> None:
    overload = process.overloaded()
    overload.admits()
    process.loop.now += 10.0
    assert sum(overload.admits() for _ in range(1_000)) == RATE * BURST_SECONDS


def test_the_rate_follows_its_effect(process: Process) -> None:
    process.overloaded()
    assert process.shed() == pytest.approx(RATE, rel=0.1)
    assert process.shed(late=0.1) == pytest.approx(RATE * RAISED, rel=0.1)
    process.backlog.append(1)
    assert process.shed() == pytest.approx(RATE * RAISED * LOWERED, rel=0.1)
    assert process.shed() == pytest.approx(RATE * RAISED * LOWERED, rel=0.1), "one slice left over is no backlog"
    for _ in range(40):
        rate = process.shed()
    assert rate == pytest.approx(RATE * LEAST_SHARE, rel=0.1)


def test_it_ends_when_nothing_was_refused_for_a_second(process: Process) -> None:
    overload = process.overloaded()
    process.shed()
    for _ in range(CALM_PERIODS):
        assert overload.is_shedding
        process.loop.now += 0.01
        assert overload.admits()
        process.passes(late=-0.01)
    assert not overload.is_shedding


def test_a_thread_knows_how_busy_it_is() -> None:
    before = thread_busy_seconds()
    while thread_busy_seconds() <= before:  # Linux counts it by ticks
        sum(range(1_000))


def test_where_linux_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda self: b"")
    assert thread_busy_seconds() > 0
