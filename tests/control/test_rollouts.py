"""The controller, with a fleet and a keeper that are made up: what is kept before what is told, and who leads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from meshproxy.config.fields import Metadata
from meshproxy.config.rollouts import Analysis, Arm, ModelRollout, RolloutSpec, Webhook
from meshproxy.control.rollout_hooks import Answer, Hooks
from meshproxy.control.rollouts import FOLLOW_EVERY, KeepFailed, RolloutController
from meshproxy.rollout.link import Kill, Merged, RolloutState
from meshproxy.rollout.steps import Command, CommandRefused, Notice, Phase, RolloutStatus
from meshproxy.rollout.window import ArmWindow, bucket
from meshproxy.telemetry.control_metrics import ControlMetrics

GOOD = ArmWindow(calls=200, latency={bucket(0.02): 200})
BAD = ArmWindow(calls=200, failures={"grpc 13": 100}, latency={bucket(0.02): 100})
Kept = dict[str, bytes]


def rollout(name: str = "half", **more: Any) -> ModelRollout:
    analysis = Analysis(interval=60.0, step_weights=(10, 50))
    spec = RolloutSpec(model=name, stable=Arm(version="1"), candidate=Arm(version="2"), analysis=analysis, **more)
    return ModelRollout(metadata=Metadata(name=name), spec=spec)


class Sidecars:
    """`rollout.link.Fleet`."""

    def __init__(self) -> None:
        self.on_kill: Any = None
        self.candidate, self.stable = GOOD, GOOD
        self.told: dict[str, RolloutState] = {}
        self.history: list[float] = []
        self.collected = 0

    def collect(self, rollout: str, revision: str) -> Merged:
        self.collected += 1
        return Merged(self.stable + ArmWindow(), self.candidate + ArmWindow(), 2)

    def publish(self, states: Iterable[RolloutState]) -> None:
        self.told = {state.rollout: state for state in states}
        for state in self.told.values():
            if not self.history or self.history[-1] != state.weight:
                self.history.append(state.weight)


class Place:
    """Keeps, as a cluster that all control planes share."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.leads = True
        self.away = False
        self.told: list[Notice] = []

    def is_leader(self) -> bool:
        return self.leads

    async def load(self, name: str) -> RolloutStatus | None:
        if self.away:
            raise KeepFailed("the API server is away")
        return msgspec.json.decode(self.kept[name], type=RolloutStatus) if name in self.kept else None

    async def keep(self, name: str, status: RolloutStatus) -> None:
        if self.away:
            raise KeepFailed("the API server is away")
        self.kept[name] = msgspec.json.encode(status)

    async def tell(self, name: str, notice: Notice) -> None:
        self.told.append(notice)


class World:
    """One control plane."""

    def __init__(self, kept: Kept | None = None, *documents: ModelRollout, hooks: Hooks | None = None) -> None:
        self.now = 1_000_000.0
        self.documents = {f"ModelRollout/{each.metadata.name}": each for each in documents or (rollout(),)}
        self.fleet, self.place = Sidecars(), Place({} if kept is None else kept)
        self.recorded: list[tuple[str, Notice]] = []
        self.controller = RolloutController(
            lambda: self.documents,
            self.fleet,
            self.place,
            hooks or Hooks(),
            ControlMetrics(),
            lambda: self.now,
            lambda name, notice: self.recorded.append((name, notice)),
        )

    async def windows(self, count: int = 1) -> None:
        for _ in range(count):
            self.now += 60
            await self.controller.look()

    @property
    def weight(self) -> float:
        return self.fleet.told["half"].weight

    def status(self, name: str = "half") -> RolloutStatus:
        return next(each.status for each in self.controller.shown() if each.name == name)


async def test_a_good_candidate_is_promoted() -> None:
    world = World()
    await world.controller.look()
    await world.windows(3)
    assert world.fleet.history == [0, 10, 50, 100] or world.fleet.history == [10, 50, 100]
    assert not world.fleet.told["half"].is_active
    assert [notice.reason for notice in world.place.told] == ["Started", "Advanced", "Promoted"]


async def test_a_bad_candidate_goes_back() -> None:
    world = World()
    await world.controller.look()
    world.fleet.candidate = BAD
    await world.windows()
    assert (world.weight, world.status().phase) == (0, Phase.ROLLED_BACK)
    assert msgspec.json.decode(world.place.kept["half"])["phase"] == "rolled-back"


async def test_nothing_goes_up_that_cannot_be_kept_and_down_it_goes_at_once() -> None:
    world = World()
    await world.controller.look()
    await world.controller.look()
    assert world.weight == 10
    world.place.away = True
    await world.windows(3)
    assert world.weight == 10
    world.fleet.on_kill(Kill("half", world.fleet.told["half"].revision, 1, "spiffe://m/a", "7 failures in a row"))
    assert world.weight == 0
    world.place.away = False
    await world.controller.look()
    assert msgspec.json.decode(world.place.kept["half"])["phase"] == "rolled-back"
    assert "spiffe://m/a: 7 failures in a row" in world.place.told[-1].message


async def test_a_rollback_while_the_cluster_is_away_reaches_the_sidecars() -> None:
    world = World()
    await world.controller.look()
    await world.controller.look()
    world.place.away = True
    world.fleet.candidate = BAD
    world.controller._rollouts["half"].followed = world.now + 60  # it was read a moment before
    await world.windows()
    assert world.weight == 0


async def test_another_control_plane_goes_on_where_one_was_killed() -> None:
    kept: Kept = {}
    first = World(kept)
    await first.controller.look()
    await first.windows()
    second = World(kept)
    second.now = first.now + 5
    await second.controller.look()
    assert second.weight == first.weight == 50
    await second.windows()
    assert second.weight == 100


async def test_those_that_do_not_lead_tell_their_sidecars_what_the_leader_decided() -> None:
    kept: Kept = {}
    leader, other = World(kept), World(kept)
    other.place.leads = False
    await leader.controller.look()
    await other.controller.look()
    await leader.windows()
    other.now += FOLLOW_EVERY
    await other.controller.look()
    assert other.weight == leader.weight == 50
    assert other.place.told == []


async def test_a_kill_at_the_sidecar_of_another_control_plane_ends_it_for_all() -> None:
    kept: Kept = {}
    leader, other = World(kept), World(kept)
    other.place.leads = False
    for each in (leader, other):
        await each.controller.look()
    await leader.controller.look()
    other.now += FOLLOW_EVERY
    await other.controller.look()
    other.fleet.on_kill(Kill("half", other.fleet.told["half"].revision, 1, "spiffe://m/b", "burst"))
    assert other.weight == 0
    await other.controller.look()
    leader.now += FOLLOW_EVERY
    await leader.controller.look()
    assert (leader.weight, leader.status().phase) == (0, Phase.ROLLED_BACK)


async def test_ten_rollouts_at_once() -> None:
    world = World({}, *(rollout(f"m{number}") for number in range(10)))
    await world.controller.look()
    world.fleet.candidate = GOOD
    await world.windows(4)
    assert {state.weight for state in world.fleet.told.values()} == {100}
    assert len(world.fleet.told) == 10


async def test_a_document_that_is_gone_is_forgotten_and_another_one_begins_anew() -> None:
    world = World()
    await world.controller.look()
    world.documents = {"ModelRollout/half": rollout()}
    other = msgspec.structs.replace(rollout().spec, candidate=Arm(version="3"))
    world.documents = {"ModelRollout/half": msgspec.structs.replace(rollout(), spec=other)}
    await world.controller.look()
    assert world.status().attempt == 2
    world.documents = {}
    await world.controller.look()
    assert world.fleet.told == {}


async def test_orders() -> None:
    world = World()
    await world.controller.look()
    with pytest.raises(CommandRefused, match="there are: half"):
        await world.controller.order("other", Command.ABORT, "me")
    await world.controller.order("half", Command.ABORT, "me")
    assert world.weight == 0
    assert [(name, notice.reason, notice.by) for name, notice in world.recorded] == [
        ("half", "Started", ""),
        ("half", "RolledBack", "me"),
    ]
    world.place.leads = False
    with pytest.raises(CommandRefused, match="does not lead"):
        await world.controller.order("half", Command.RETRY, "me")


async def test_metrics() -> None:
    world = World()
    await world.controller.look()
    await world.windows(3)
    metrics = world.controller._metrics
    assert metrics.rollout_windows.labels("half", "pass").value == 2
    assert metrics.rollout_notices.labels("half", "Promoted").value == 1


async def test_a_promotion_is_told_when_it_is_kept() -> None:
    world = World()
    await world.controller.look()
    await world.windows()
    assert world.weight == 50
    world.place.away = True
    with pytest.raises(KeepFailed):
        await world.controller.order("half", Command.PROMOTE, "me")
    await world.controller.look()
    assert world.weight == 50
    world.place.away = False
    await world.controller.look()
    assert world.weight == 100


async def test_a_kill_while_the_status_is_being_written_is_written_next() -> None:
    world = World()
    await world.controller.look()
    keep, kill = world.place.keep, Kill("half", rollout().spec.revision, 1, "spiffe://m/a", "7 failures in a row")

    async def kept_late(name: str, status: RolloutStatus) -> None:
        await keep(name, status)
        world.fleet.on_kill(kill)

    world.place.keep = kept_late  # type: ignore[method-assign]
    await world.windows()
    world.place.keep = keep  # type: ignore[method-assign]
    await world.controller.look()
    assert world.weight == 0
    assert msgspec.json.decode(world.place.kept["half"])["phase"] == "rolled-back"


async def test_a_kill_of_the_attempt_before_does_not_overwrite_a_retry() -> None:
    kept: Kept = {}
    leader, other = World(kept), World(kept)
    other.place.leads = False
    for each in (leader, other):
        await each.controller.look()
    other.fleet.on_kill(Kill("half", rollout().spec.revision, 1, "spiffe://m/b", "burst"))
    await leader.controller.order("half", Command.ABORT, "me")
    await leader.controller.order("half", Command.RETRY, "me")
    await other.controller.look()
    assert msgspec.json.decode(kept["half"])["attempt"] == 2


async def test_one_that_leads_no_longer_does_not_write_what_it_could_not_write_before() -> None:
    kept: Kept = {}
    first, second = World(kept), World(kept)
    await first.controller.look()
    first.place.away = True
    with pytest.raises(KeepFailed):
        await first.controller.order("half", Command.PROMOTE, "me")
    await second.controller.look()
    await second.controller.order("half", Command.ABORT, "me")
    first.place.leads = first.place.away = False
    await first.controller.look()
    assert msgspec.json.decode(kept["half"])["phase"] == "rolled-back"
    assert first.weight == 0


async def test_a_webhook_that_answers_when_it_leads_no_longer() -> None:
    hooks = Asked()
    hooks.answer = Answer(True)
    hook = Webhook(name="ok", type="confirm-rollout", url="http://127.0.0.1:1/")
    world = World({}, rollout(webhooks=(hook,)), hooks=hooks)
    await world.controller.look()
    world.place.leads = False
    await asyncio.sleep(0)
    assert world.status().phase is Phase.WAITING


async def test_what_cannot_be_kept_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World({}, rollout("half"), rollout("other"))
    await world.controller.look()
    keep = world.place.keep

    async def kept_not(name: str, status: RolloutStatus) -> None:
        if name == "half":
            raise KeepFailed("it is too large")
        await keep(name, status)

    world.place.keep = kept_not  # type: ignore[method-assign]
    await world.windows(3)
    assert [record.message for record in caplog.records].count("the state of rollouts is not kept; trying again") == 1


async def test_calls_before_a_window_are_not_in_it() -> None:
    hooks = Asked()
    hook = Webhook(name="ok", type="confirm-rollout", url="http://127.0.0.1:1/")
    world = World({}, rollout(webhooks=(hook,)), hooks=hooks)
    await world.controller.look()  # waits
    assert world.fleet.collected == 1
    await world.controller.order("half", Command.ABORT, "me")
    await world.controller.look()
    assert world.fleet.collected == 2
    paused = World({}, rollout(paused=True))
    await paused.controller.look()
    assert paused.fleet.collected == 1


class Asked(Hooks):
    """Webhooks that say what they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = Answer(False, why="not yet")
        self.asked: list[str] = []

    async def ask(self, name: str, steps: Any, gate: Any) -> Answer:
        self.asked.append(gate.value)
        return self.answer

    def event(self, name: str, steps: Any, notice: Notice) -> None:
        self.asked.append(notice.reason)


async def test_a_gate_opens_when_its_webhook_says_yes() -> None:
    hooks = Asked()
    hook = Webhook(name="ok", type="confirm-rollout", url="http://127.0.0.1:1/")
    world = World({}, rollout(webhooks=(hook,)), hooks=hooks)
    await world.controller.look()
    await asyncio.sleep(0)
    assert (world.status().phase, hooks.asked) == (Phase.WAITING, ["start"])
    world.controller._rollouts["half"].confirming.cancel()  # type: ignore[union-attr]
    await asyncio.sleep(0)
    hooks.answer = Answer(True)
    await world.controller.look()
    await asyncio.sleep(0)
    await world.controller.look()
    assert world.weight == 10
    assert hooks.asked == ["start", "start", "Started"]
