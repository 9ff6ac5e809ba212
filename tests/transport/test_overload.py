"""When requests are shed, how many, and when no longer."""

from __future__ import annotations

import logging
from itertools import pairwise
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.codec.h2.budgets import Statistics
from meshproxy.codec.h2.patience import ENOUGH, Patience
from meshproxy.transport.overload import (
    BURST_SECONDS,
    CALM_SECONDS,
    DRAIN_SECONDS,
    GIVEN_UP_LEAST,
    LATE,
    LEAST_RATE,
    LEAST_SHARE,
    LOWERED,
    OLD,
    PERIOD,
    RAISED,
    REFILL_SECONDS,
    SHEDDING_PERIOD,
    Overload,
    thread_busy_seconds,
)
from meshproxy.transport.turns import Turns

RATE = 1_000


class Process:
    """An event loop that is busy, or not."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.busy = 0.0
        self.statistics = Statistics()
        self.turns = Turns(loop).queue()
        self.limits: list[str] = []
        self.overload = Overload(loop, self.turns, self.statistics, self.limits.append, lambda: self.busy)
        self.overload.expire(loop.now)
        self.client = SimpleNamespace(patience=None, requests=0)
        self.gives_up()

    def gives_up(self) -> None:
        """The client does."""
        self.client.patience = Patience(0, self.loop.now)
        self.client.requests = ENOUGH
        self.client.patience.gave_up(ENOUGH, 0, self.loop.now)

    def admits(self, since: float = inf) -> bool:
        """Whether its next request is; in the turn of a connection that has had input left over since then, if any."""
        if since == inf:
            return self.overload.admits(self.client)
        found = []
        self.turns._waiting[work := lambda: found.append(self.overload.admits(self.client))] = since
        self.turns.add(work)
        self.loop.turn()
        return found[0]

    def passes(self, *, requests: int = RATE // 4, resets: int = 0, busy: float = 1.0) -> None:
        """A period."""
        self.loop.now += PERIOD
        self.busy += busy * PERIOD
        self.statistics.requests += requests
        self.statistics.resets_received += resets
        self.overload.expire(self.loop.now)

    def overloaded(self) -> Overload:
        self.passes(resets=100)
        assert self.overload.is_shedding
        self.gives_up()
        self.admits()
        return self.overload

    def shed(self, seconds: float = SHEDDING_PERIOD, late: float = 0.0) -> float:
        """Every millisecond brings ten requests, and then the counters are looked at. Returns how many are admitted, a
        second."""
        while self.admits():
            pass  # what was left over from the last period
        admitted = 0
        for _ in range(round(seconds * 1_000)):
            self.loop.now += 0.001
            admitted += sum(self.admits() for _ in range(10))
        self.loop.now += late
        self.overload.expire(self.loop.now)
        return admitted / seconds


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
    assert process.overload.deadline == process.loop.now + SHEDDING_PERIOD
    assert "add replicas" in caplog.text


def test_old_input_is_refused_first(process: Process) -> None:
    before = process.loop.now
    overload = process.overloaded()
    process.loop.now += 0.1
    assert not any(process.admits(since=before) for _ in range(100))
    process.overload.expire(process.loop.now)
    assert overload._rate == RATE, "what had waited says nothing of it"
    assert process.shed() == pytest.approx(RATE, rel=0.5)
    assert process.limits == ["overload"] * overload.refused
    assert overload.refused > 500


def test_a_client_that_waits_is_served(process: Process) -> None:
    """Whatever others do, and however much of it is left over."""
    overload = process.overloaded()
    patient = SimpleNamespace(patience=None, requests=5_000)
    assert all(overload.admits(patient) for _ in range(2_000))
    patient.patience = Patience(5_000, process.loop.now)
    patient.patience.gave_up(1, 5_000, process.loop.now)
    for patient.requests in range(5_001, 5_101):
        assert overload.admits(patient), "one of so few says nothing"
    assert overload.refused == 1, "the other one"
    patient.patience.gave_up(50, 5_100, process.loop.now)
    assert not overload.admits(patient)


def test_who_has_given_up_is_shed_until_the_end(process: Process) -> None:
    """Who is refused has nothing to give up."""
    process.overloaded()
    for _ in range(100):
        process.client.requests += 500
        assert process.shed() == pytest.approx(process.overload._rate, rel=0.5)
    assert process.overload.refused > 0


def test_but_not_for_ever(process: Process) -> None:
    """Where refusing takes all the time, some are served all the same."""
    process.overloaded()
    begun = process.loop.now
    admitted = []
    while process.loop.now < begun + 4 * DRAIN_SECONDS:
        process.loop.now += SHEDDING_PERIOD
        admitted.append(process.admits(since=begun - 1.0))
        process.overload.expire(process.loop.now)
    quarter = len(admitted) // 4
    assert [sum(admitted[at : at + quarter]) > quarter // 2 for at in range(0, 4 * quarter, quarter)] == [
        False,
        True,
        False,
        True,
    ]


def test_some_are_served_although_none_came_before(process: Process) -> None:
    """All that were waiting were given up at once."""
    process.passes(requests=0, resets=100)
    assert process.overload.is_shedding
    process.gives_up()
    process.admits()
    process.shed()
    assert process.shed(1.0) == pytest.approx(LEAST_RATE, rel=0.2)
    for _ in range(100):
        process.shed(late=LATE + 0.01)
    assert process.overload._rate == LEAST_RATE


def test_what_has_been_left_over_for_long_is_old(process: Process) -> None:
    process.overloaded()
    assert process.shed() > 0
    process.loop.now += REFILL_SECONDS
    since = process.loop.now - 0.9 * OLD
    assert process.admits(since)
    process.loop.now += 0.2 * OLD
    assert not process.admits(since)
    assert process.admits(), "of a connection that has nothing left over"


def test_the_rate_is_lowered_once_when_most_is_old(process: Process) -> None:
    """And raised when it is not, although somebody is always behind."""
    overload = process.overloaded()
    process.shed()
    rate, since = overload._rate, process.loop.now - 1.0
    for _ in range(2):
        assert not process.admits(since)
        process.loop.now += SHEDDING_PERIOD
        overload.expire(process.loop.now)
        assert overload._rate == pytest.approx(rate * LOWERED)
    assert not process.admits(since)
    process.shed()
    assert overload._rate == pytest.approx(rate * LOWERED * RAISED)


def test_requests_are_admitted_in_a_row(process: Process) -> None:
    """A single one among many that are refused costs three times as much."""
    process.overloaded()
    process.shed()
    while process.admits():
        pass
    found = []
    for _ in range(100):
        process.loop.now += 0.001
        found += [process.admits() for _ in range(5)]
    begins = sum(1 for before, after in pairwise(found) if after and not before)
    assert sum(found) == pytest.approx(0.1 * RATE, rel=0.3)
    assert begins <= 0.1 / REFILL_SECONDS


def test_a_burst_is_admitted_after_a_pause(process: Process) -> None:
    process.overloaded()
    process.admits()
    process.loop.now += 10.0
    assert sum(process.admits() for _ in range(1_000)) == RATE * BURST_SECONDS


def test_the_rate_follows_its_effect(process: Process) -> None:
    overload = process.overloaded()
    process.shed()
    for _ in range(20):
        process.shed()
    assert overload._rate == pytest.approx(RATE * RAISED**21)
    process.shed(late=LATE + 0.01)
    assert overload._rate == pytest.approx(RATE * RAISED**21 * LOWERED)
    for _ in range(100):
        process.shed(late=LATE + 0.01)
    assert overload._rate == pytest.approx(RATE * LEAST_SHARE)


def test_it_ends_when_nothing_was_refused_for_a_second(process: Process) -> None:
    overload = process.overloaded()
    process.shed()
    begun = process.loop.now
    while overload.is_shedding:
        process.loop.now += SHEDDING_PERIOD
        assert process.admits()
        overload.expire(process.loop.now)
    assert process.loop.now - begun == pytest.approx(CALM_SECONDS, abs=SHEDDING_PERIOD)
    assert overload.deadline == process.loop.now + PERIOD


def test_a_thread_knows_how_busy_it_is() -> None:
    before = thread_busy_seconds()
    while thread_busy_seconds() <= before:  # Linux counts it by ticks
        sum(range(1_000))


def test_where_linux_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda self: b"")
    assert thread_busy_seconds() > 0
