"""What sidecars report of rollouts is added up, and each is told its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.control.rollout_service import MOST_CALLS, MOST_COUNT, RolloutService, is_sane
from meshproxy.refusal import GrpcStatus
from meshproxy.rollout.link import Kill, ReportedRollout, RolloutsReport, RolloutState, RolloutStates
from meshproxy.rollout.window import CLASS_BINS, LAST_BUCKET, LAST_SCORE, ArmWindow, bucket, bucket_value
from meshproxy.telemetry.control_metrics import ControlMetrics
from meshproxy.transport.grpc_server import CallFailed
from tests.control.test_distribution import NOW, FakeCall, workload

STATE = RolloutState("r", "1", 0, 10.0)


class Call(FakeCall):
    def post(self, framed: bytes) -> None:
        self.told: list[RolloutStates] = [
            *getattr(self, "told", []),
            msgspec.json.decode(framed[5:], type=RolloutStates),
        ]

    async def wait(self) -> None:
        await asyncio.sleep(0)
        await super().wait()


class Fleet:
    """The service, and sidecars by name."""

    def __init__(self) -> None:
        self.metrics = ControlMetrics()
        self.documents: dict[int, Any] = {}
        self.strangers: set[str] = set()
        """Whose word counts for nothing."""
        distribution: Any = SimpleNamespace(
            watchers=self.documents,
            entitlements=SimpleNamespace(may_report=lambda who, rollout: who.service_account not in self.strangers),
        )
        self.service = RolloutService(distribution, self.metrics, lambda: NOW)
        self.kills: list[Kill] = []
        self.service.on_kill = self.kills.append
        self.tasks: list[asyncio.Task[None]] = []

    def connect(self, name: str, *rollouts: str) -> Call:
        """A sidecar with these rollouts among its documents."""
        keys = {f"ModelRollout/{rollout}" for rollout in rollouts}
        peer = workload(name=name)
        self.documents[len(self.documents)] = SimpleNamespace(
            spiffe_id=peer.spiffe_id, group=SimpleNamespace(keys=keys)
        )
        call = Call(peer, f"10.0.0.{len(self.documents)}:1")
        self.tasks.append(asyncio.ensure_future(self.service.watch(call)))  # type: ignore[arg-type]
        return call

    async def report(self, call: Call, *reports: ReportedRollout) -> None:
        call.messages.append(msgspec.json.encode(RolloutsReport("s", reports)))
        call.wake()
        for _ in range(5):
            await asyncio.sleep(0)

    def dropped(self, why: str) -> float:
        return self.metrics.rollout_reports_dropped.labels(why).value


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    made = Fleet()
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


def of(calls: int, revision: str = "1", **changes: Any) -> ReportedRollout:
    return ReportedRollout("r", revision, candidate=ArmWindow(calls=calls), **changes)


async def test_windows_of_all_sidecars_are_added_up(fleet: Fleet) -> None:
    fleet.service.publish([STATE])
    for name, calls in (("a", 3), ("b", 4)):
        await fleet.report(fleet.connect(name, "r"), of(calls))
    merged = fleet.service.collect("r", "1")
    assert (merged.candidate.calls, merged.sidecars) == (7, 2)
    assert fleet.service.collect("r", "1").candidate.calls == 0


async def test_only_of_rollouts_among_its_documents(fleet: Fleet) -> None:
    fleet.service.publish([STATE])
    call = fleet.connect("a", "other")
    await fleet.report(call, of(3))
    assert fleet.service.collect("r", "1").candidate.calls == 0
    assert fleet.dropped("scope") == 1
    assert not hasattr(call, "told")


async def test_only_of_those_whose_word_counts(fleet: Fleet) -> None:
    fleet.service.publish([STATE])
    fleet.strangers.add("a")
    call = fleet.connect("a", "r")
    await fleet.report(call, of(3, killed="it fails"))
    assert (fleet.service.collect("r", "1").candidate.calls, fleet.dropped("scope"), fleet.kills) == (0, 1, [])
    assert not hasattr(call, "told")


async def test_a_word_that_counts_no_more(fleet: Fleet) -> None:
    """The documents have taken it away while the sidecar is connected."""
    fleet.service.publish([STATE])
    call = fleet.connect("a", "r")
    await fleet.report(call, of(3))
    fleet.strangers.add("a")
    await fleet.report(call, of(4, killed="it fails"))
    assert (fleet.service.collect("r", "1").candidate.calls, fleet.dropped("scope"), fleet.kills) == (3, 1, [])
    fleet.strangers.clear()
    await fleet.report(call, of(5))
    assert fleet.service.collect("r", "1").candidate.calls == 5


async def test_what_is_out_of_scope_is_looked_up_once_for_each_publication(fleet: Fleet) -> None:
    fleet.service.publish([STATE])
    call = fleet.connect("a", "other")
    await fleet.report(call)
    looked: list[int] = []

    class Watchers(dict[int, Any]):
        def values(self) -> Any:
            looked.append(1)
            return super().values()

    fleet.service._distribution.watchers = Watchers(fleet.documents)
    await fleet.report(call, *[of(1)] * 9, *[ReportedRollout("unknown", "1")] * 9)
    assert (fleet.dropped("scope"), fleet.dropped("revision"), looked) == (9, 9, [])
    fleet.service.publish([STATE])
    await fleet.report(call, of(1), of(1))
    assert looked == [1]


async def test_only_of_the_arms_that_are_judged(fleet: Fleet) -> None:
    fleet.service.publish([STATE])
    call = fleet.connect("a", "r")
    await fleet.report(call, of(3, "0"), of(3, attempt=1))
    assert fleet.dropped("revision") == 2
    await fleet.report(call, of(-1))
    assert fleet.dropped("counts") == 1
    assert fleet.service.collect("r", "1").candidate.calls == 0


async def test_each_is_told_what_it_does_not_know(fleet: Fleet) -> None:
    call = fleet.connect("a", "r")
    await fleet.report(call)
    fleet.service.publish([STATE, RolloutState("other", "1")])
    for _ in range(5):
        await asyncio.sleep(0)
    assert call.told == [RolloutStates((STATE,))]
    fleet.service.publish([STATE])
    fleet.service.publish([msgspec.structs.replace(STATE, weight=0.0)])
    for _ in range(5):
        await asyncio.sleep(0)
    assert [state.weight for told in call.told for state in told.rollouts] == [10.0, 0.0]


async def test_a_kill_is_passed_on_once(fleet: Fleet) -> None:
    fleet.service.publish([STATE])
    call = fleet.connect("a", "r")
    await fleet.report(call, of(1, killed="a burst"))
    await fleet.report(call, of(1, killed="a burst"))
    assert fleet.kills == [Kill("r", "1", 0, workload(name="a").spiffe_id, "a burst")]


async def test_a_kill_is_passed_on_again_when_its_document_was_gone(fleet: Fleet) -> None:
    """Attempts are counted from 1 again, and the sidecar keeps the candidate out."""
    fleet.service.publish([STATE])
    call = fleet.connect("a", "r")
    await fleet.report(call, of(1, killed="a burst"))
    fleet.service.publish([])
    fleet.service.publish([STATE])
    await fleet.report(call, of(0, killed="a burst"))
    assert len(fleet.kills) == 2


async def test_a_window_has_only_so_many_calls(fleet: Fleet) -> None:
    fleet.service.publish([STATE])
    call = fleet.connect("a", "r")
    await fleet.report(call, *[of(MOST_COUNT)] * (MOST_CALLS // MOST_COUNT + 1))
    assert fleet.service.collect("r", "1").candidate.calls == MOST_CALLS
    assert fleet.dropped("counts") == 1


async def test_without_a_certificate(fleet: Fleet) -> None:
    with pytest.raises(CallFailed) as caught:
        await fleet.service.watch(Call(None))  # type: ignore[arg-type]
    assert caught.value.status is GrpcStatus.UNAUTHENTICATED


@pytest.mark.parametrize(
    "window",
    [
        ArmWindow(calls=-1),
        ArmWindow(calls=2**60),
        ArmWindow(calls=1, failures={"broken": 2}),
        ArmWindow(calls=1, latency={1: -1}),
        ArmWindow(calls=1, answers=2),
        ArmWindow(calls=5, answers=5, nan_answers=6),
        ArmWindow(disagreements=1),
        ArmWindow(calls=1, latency={1: 0}),  # a histogram of nothing has no mean
        ArmWindow(calls=1, latency={LAST_BUCKET + 1: 1}),
        ArmWindow(calls=1, latency={-1: 1}),
        ArmWindow(calls=1, sizes={LAST_BUCKET + 1: 1}),
        ArmWindow(calls=1, answers=1, classes={CLASS_BINS: 1}),
        ArmWindow(calls=1, answers=1, scores={LAST_SCORE + 1: 1}),
        ArmWindow(calls=1, failures={"http 50000": 1}),
    ],
)
def test_counts_that_cannot_be_true(window: ArmWindow) -> None:
    assert not is_sane(window)


def test_every_bucket_that_may_be_reported_has_a_value() -> None:
    assert 1e19 < bucket_value(LAST_BUCKET) < 1e20
    assert bucket(1e40) == LAST_BUCKET


@settings(max_examples=30)
@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(0, 1000))
def test_counts_that_can(good: int, bad: int, read: int) -> None:
    window = ArmWindow(calls=good + bad, failures={"http 500": bad}, latency={3: good}, answers=min(read, good))
    assert is_sane(window)
