from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from benchmarks.peers.direct import Direct
from benchmarks.peers.peer import Running
from benchmarks.processes import CannotRun
from benchmarks.runner import Measured, Runner
from benchmarks.works.work import Failed, Figures, Pace, Traffic, Work


class FakeChild:
    def cpu(self) -> float:
        return 0.0


@dataclass
class FakeUpstream:
    child: FakeChild = field(default_factory=FakeChild)


class FakeContext:
    """Starts nothing; keeps who was started."""

    def __init__(self) -> None:
        self.cores = [0, 1]
        self.started: list[str] = []

    def upstream(self, reply: int) -> FakeUpstream:
        return FakeUpstream()

    def start(self, peer: Any, upstream: Any, work: Work) -> Running:
        self.started.append(peer.name)
        if peer.name == "broken":
            raise CannotRun("it did not start")
        return Running(1, 1, None, is_tls=False)

    def take_latencies(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class CountingWork(Work):
    """Answers with the number of the measurement; fails when told."""

    headline: ClassVar[tuple[str, ...]] = ("count",)
    count: list[int] = field(default_factory=list)
    fails_at: int = 0

    @property
    def question(self) -> str:
        return "how many"

    async def measure(self, context: Any, upstream: Any, running: Running, pace: Pace) -> Figures:
        self.count.append(1)
        if len(self.count) == self.fails_at:
            raise Failed("3 of 10 failed: status 503 (3)")
        return {"count": float(len(self.count))}


@dataclass(frozen=True, slots=True)
class FreshWork(CountingWork):
    is_fresh: ClassVar[bool] = True
    at_most_rounds: ClassVar[int | None] = 2


class Named(Direct):
    def __init__(self, name: str) -> None:
        self.name = name


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> FakeContext:
    async def all_well(*_: object) -> None:
        return None

    monkeypatch.setattr("benchmarks.runner.check_refusals", all_well)
    monkeypatch.setattr("gc.collect", lambda: 0)  # of all tests' objects, before each measurement
    return FakeContext()


def run(context: FakeContext, work: Work, rounds: int = 3) -> tuple[Measured, list[str]]:
    order: list[str] = []
    peers = {name: Named(name) for name in ("a", "b", "broken")}
    runner = Runner(context, peers, rounds, Pace(), lambda _work, _number, _of, peer: order.append(peer))  # type: ignore[arg-type]
    return runner.run(work), order


def test_peers_take_turns_in_turned_around_order(context: FakeContext) -> None:
    measured, order = run(context, CountingWork("w", Traffic("rest"), ("a", "b")))
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert measured.series("a", "count") == [1.0, 4.0, 5.0]
    assert measured.of_machine("busy") is not None


def test_a_peer_that_does_not_start_is_left_out_with_the_reason(context: FakeContext) -> None:
    measured, order = run(context, CountingWork("w", Traffic("rest"), ("a", "broken", "unknown")), 1)
    assert order == ["a"]
    assert measured.failures == {"broken": "it did not start"}


def test_a_peer_that_fails_keeps_its_rounds_and_is_asked_no_more(context: FakeContext) -> None:
    measured, order = run(context, CountingWork("w", Traffic("rest"), ("a", "b"), fails_at=2))
    assert order == ["a", "b", "a", "a"]
    assert measured.failures == {"b": "3 of 10 failed: status 503 (3)"}


def test_some_works_start_their_peer_anew_and_take_fewer_rounds(context: FakeContext) -> None:
    _, order = run(context, FreshWork("w", Traffic("rest"), ("a",)), rounds=5)
    assert order == ["a", "a"]
    assert context.started == ["a"] * 3


def test_a_work_that_needs_more_cores_is_not_run(context: FakeContext) -> None:
    measured, order = run(context, CountingWork("w", Traffic("rest"), ("a",), workers=2))
    assert order == []
    assert measured.not_run == "needs 4 cores, this machine has 2"
    assert not measured.failures
    _, order = run(context, CountingWork("w", Traffic("rest"), ("a",), workers=2, shares_cores=True))
    assert order
