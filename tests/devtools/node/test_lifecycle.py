from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.devtools.node.lifecycle import (
    LEAST_GRACE,
    Deleted,
    Do,
    Ended,
    Event,
    HookEnded,
    Pod,
    Probed,
    Run,
    begin,
    decide,
    is_finished,
    is_initialized,
    observe,
    pause_before,
)
from meshproxy.devtools.node.probing import Kind
from meshproxy.devtools.node.spec import Container, Hook, Lifecycle, Probe, Spec
from tests.thorough import tries

STARTUP = Probe(period_seconds=1.0, failure_threshold=3)
SIDECAR = Container("sidecar", restart_policy="Always", startup_probe=STARTUP)


@dataclass
class World:
    """A pod on a node where nothing takes time. What has been done is in `done`."""

    spec: Spec
    now: float = 100.0
    pod: Pod = field(init=False)
    done: list[tuple[Do, str]] = field(default_factory=list)
    is_over: bool = False
    wake_at: float | None = None
    check: Callable[[Do, str, Pod], None] | None = None
    """Called with each action and what comes of it, before the clock goes on."""

    def __post_init__(self) -> None:
        self.pod = begin(self.spec)
        self.decide()

    def decide(self) -> list[tuple[Do, str]]:
        step = decide(self.spec, self.pod, self.now)
        for do, name in step.actions:
            if self.check is not None:
                self.check(do, name, step.pod)
        self.pod, self.is_over, self.wake_at = step.pod, step.is_over, step.wake_at
        self.done += step.actions
        again = decide(self.spec, self.pod, self.now)
        assert again.actions == (), "what was decided is decided once"
        return list(step.actions)

    def tell(self, event: Event) -> list[tuple[Do, str]]:
        self.pod = observe(self.spec, self.pod, event, self.now)
        return self.decide()

    def ends(self, name: str, code: int = 0) -> list[tuple[Do, str]]:
        return self.tell(Ended(name, code))

    def probed(self, name: str, kind: Kind, *, is_success: bool = True) -> list[tuple[Do, str]]:
        return self.tell(Probed(name, self.pod.containers[name].starts, kind, is_success))

    def later(self, seconds: float) -> list[tuple[Do, str]]:
        self.now += seconds
        return self.decide()


def test_each_init_container_waits_for_the_one_before() -> None:
    spec = Spec((Container("a"), Container("b")), (Container("first"), SIDECAR, Container("second")))
    world = World(spec)
    assert world.done == [(Do.START, "first")]
    assert world.ends("first") == [(Do.START, "sidecar"), (Do.STARTUP, "sidecar")]
    assert world.later(10) == []
    assert world.probed("sidecar", Kind.STARTUP) == [(Do.START, "second")]
    assert not is_initialized(spec, world.pod)
    assert world.ends("second") == [(Do.START, "a"), (Do.START, "b")]
    assert is_initialized(spec, world.pod)


def test_a_failed_init_container_is_started_again_after_a_pause() -> None:
    world = World(Spec((Container("a"),), (Container("first"),)))
    assert world.ends("first", 1) == [(Do.START, "first")]
    assert world.ends("first", 1) == []
    assert world.wake_at == world.now + 10
    assert world.later(9.9) == []
    assert world.later(0.1) == [(Do.START, "first")]
    assert world.ends("first") == [(Do.START, "a")]


def test_a_failed_init_container_is_the_end_of_a_pod_that_never_restarts() -> None:
    spec = Spec((Container("a"),), (SIDECAR, Container("first")), restart_policy="Never")
    world = World(spec)
    world.probed("sidecar", Kind.STARTUP)
    assert world.ends("first", 1) == [(Do.TERMINATE, "sidecar")]
    assert is_finished(spec, world.pod)
    assert world.ends("sidecar") == []


@pytest.mark.parametrize(
    ("policy", "code", "restarts"),
    [("Always", 0, True), ("OnFailure", 0, False), ("OnFailure", 1, True), ("Never", 1, False)],
)
def test_restart_policies(policy: str, code: int, restarts: bool) -> None:
    world = World(Spec((Container("a"),), restart_policy=policy))
    assert world.ends("a", code) == ([(Do.START, "a")] if restarts else [])


def test_pauses_double() -> None:
    assert [pause_before(starts) for starts in (0, 1, 2, 3, 4, 99)] == [0, 0, 10, 20, 40, 300]


def test_a_job_ends_with_its_sidecars_in_reverse_order() -> None:
    other = Container("other", restart_policy="Always")
    world = World(Spec((Container("a"),), (SIDECAR, other), restart_policy="Never"))
    world.probed("sidecar", Kind.STARTUP)
    assert world.ends("a", 0) == [(Do.TERMINATE, "other")]
    assert world.ends("other", 0) == [(Do.TERMINATE, "sidecar")]
    world.ends("sidecar", 0)
    assert world.later(1_000) == []


def test_a_sidecar_that_ends_comes_back_and_the_container_stays() -> None:
    world = World(Spec((Container("a"),), (SIDECAR,)))
    world.probed("sidecar", Kind.STARTUP)
    assert world.ends("sidecar", 1) == [(Do.START, "sidecar"), (Do.STARTUP, "sidecar")]
    assert world.ends("a", 1) == [(Do.START, "a")]


def test_readiness() -> None:
    probe = Probe(period_seconds=2.0, failure_threshold=2)
    world = World(Spec((Container("a", readiness_probe=probe, startup_probe=STARTUP), Container("b"))))
    assert world.done[-1] == (Do.STARTUP, "a")
    assert world.probed("a", Kind.STARTUP) == [(Do.READINESS, "a")]
    assert [world.pod.containers[name].is_ready for name in "ab"] == [False, True]
    assert world.probed("a", Kind.READINESS) == []
    assert world.pod.containers["a"].is_ready
    for is_ready in (True, False):
        assert world.later(2.0) == [(Do.READINESS, "a")]
        world.probed("a", Kind.READINESS, is_success=False)
        assert world.pod.containers["a"].is_ready is is_ready


@pytest.mark.parametrize("kind", [Kind.LIVENESS, Kind.STARTUP])
def test_what_does_not_live_is_ended_and_started_again(kind: Kind) -> None:
    probe = Probe(failure_threshold=1)
    hook = Lifecycle(Hook(sleep={"seconds": 5}))
    container = (
        Container("a", lifecycle=hook, liveness_probe=probe)
        if kind is Kind.LIVENESS
        else Container("a", lifecycle=hook, startup_probe=probe)
    )
    world = World(Spec((container,), termination_grace_period_seconds=20.0))
    assert world.probed("a", kind, is_success=False) == [(Do.HOOK, "a")]
    assert world.later(5.0) == []
    assert world.tell(HookEnded("a", 1)) == [(Do.TERMINATE, "a")]
    assert world.later(14.9) == []
    assert world.later(0.1) == [(Do.KILL, "a")]
    assert world.ends("a", 137)[0] == (Do.START, "a")
    # What was said of the run before counts no more.
    assert world.tell(Probed("a", 1, kind, is_success=False)) == []
    assert world.tell(HookEnded("a", 1)) == []


def test_the_end_of_a_pod() -> None:
    """Hooks begin at once; sidecars have their turn after the containers."""
    hook = Lifecycle(Hook(sleep={"seconds": 5}))
    other = Container("other", restart_policy="Always", lifecycle=hook)
    world = World(Spec((Container("a", lifecycle=hook), Container("b")), (SIDECAR, other)))
    world.probed("sidecar", Kind.STARTUP)
    assert world.tell(Deleted(30.0)) == [(Do.HOOK, "other"), (Do.HOOK, "a"), (Do.TERMINATE, "b")]
    assert world.tell(HookEnded("other", 1)) == []
    assert world.ends("b", 0) == []
    assert world.tell(HookEnded("a", 1)) == [(Do.TERMINATE, "a")]
    assert world.ends("a", 0) == [(Do.TERMINATE, "other")]
    assert not world.is_over
    assert world.ends("other", 0) == [(Do.TERMINATE, "sidecar")]
    world.ends("sidecar", 0)
    assert world.is_over


def test_a_second_deletion_may_leave_less_time() -> None:
    world = World(Spec((Container("a"),)))
    world.tell(Deleted(30.0))
    world.tell(Deleted(60.0))
    assert world.wake_at == 130.0
    assert world.tell(Deleted(1.0)) == []
    assert world.later(LEAST_GRACE - 0.1) == []
    assert world.later(0.1) == [(Do.KILL, "a")]


probes = st.none() | st.builds(Probe, period_seconds=st.just(1.0), failure_threshold=st.integers(1, 2))
hooks = st.sampled_from([Lifecycle(), Lifecycle(Hook(sleep={"seconds": 1}))])


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    def container(name: str, *, is_init: bool) -> Container:
        is_sidecar = is_init and draw(st.booleans())
        has_probes = is_sidecar or not is_init
        return Container(
            name,
            restart_policy="Always" if is_sidecar else None,
            startup_probe=draw(probes) if has_probes else None,
            readiness_probe=draw(probes) if has_probes else None,
            liveness_probe=draw(probes) if has_probes else None,
            lifecycle=draw(hooks) if has_probes else Lifecycle(),
        )

    return Spec(
        tuple(container(f"main-{n}", is_init=False) for n in range(draw(st.integers(1, 2)))),
        tuple(container(f"init-{n}", is_init=True) for n in range(draw(st.integers(0, 3)))),
        restart_policy=draw(st.sampled_from(["Always", "OnFailure", "Never"])),
        termination_grace_period_seconds=float(draw(st.integers(0, 5))),
    )


class Rules:
    """What holds for each thing that is done."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.spec = world.spec
        self.signalled: set[tuple[str, int]] = set()
        self.hooked: set[tuple[str, int]] = set()

    def __call__(self, do: Do, name: str, after: Pod) -> None:
        states = self.world.pod.containers  # as before this decision
        container = self.spec.container(name)
        run = (name, states[name].starts)
        if do is Do.START:
            assert self.world.pod.deadline is None
            assert states[name].run is not Run.RUNNING
            if name.startswith("main") and not any(states[each.name].starts for each in self.spec.containers):
                for each in self.spec.init_containers:
                    state = after.containers[each.name]
                    assert state.is_started if each.is_sidecar else (state.run, state.code) == (Run.ENDED, 0)
        elif do is Do.HOOK:
            assert run not in self.hooked
            self.hooked.add(run)
        elif do is Do.TERMINATE:
            assert states[name].run is Run.RUNNING
            assert run not in self.signalled
            assert container.lifecycle.pre_stop is None or run in self.hooked
            self.signalled.add(run)
            if container.is_sidecar and self.world.pod.deadline is not None:
                is_late = self.world.now >= after.containers[name].deadline
                at = self.spec.init_containers.index(container) + 1
                later = (*self.spec.init_containers[at:], *self.spec.containers)
                assert is_late or all(states[each.name].run is not Run.RUNNING for each in later)
        elif do is Do.KILL:
            assert run in self.signalled


@given(spec=specs(), data=st.data())
@settings(max_examples=tries(100), deadline=None)
def test_whatever_happens(spec: Spec, data: st.DataObject) -> None:
    """Containers end, hooks end and probes come out in any order; the pod is deleted, and is over in time."""
    world = World(spec)
    rules = Rules(world)
    world.check = rules

    def happen() -> None:
        running = [name for name, state in world.pod.containers.items() if state.run is Run.RUNNING]
        events: list[Event] = []
        for name in running:
            state = world.pod.containers[name]
            events += [Ended(name, code) for code in (0, 1)]
            events.append(HookEnded(name, state.starts))
            for kind, probing in state.probes.items():
                if probing.is_running:
                    events += [Probed(name, state.starts, kind, is_success) for is_success in (True, False)]
        event = data.draw(st.none() | st.sampled_from(events)) if events else None
        if event is not None:
            world.tell(event)
        else:
            world.later(data.draw(st.sampled_from([0.1, 1.0, 5.0, 20.0])))

    for _ in range(data.draw(st.integers(0, 25))):
        happen()
    hoped = world.now + spec.termination_grace_period_seconds
    world.tell(Deleted(spec.termination_grace_period_seconds))
    for _ in range(data.draw(st.integers(0, 5))):
        happen()
    begun_to_wait = world.now
    # From here on nothing ends by itself: only what is killed does.
    for _ in range(100):
        if world.is_over:
            break
        killed = [name for name, state in world.pod.containers.items() if state.stop.name == "KILLED"]
        if killed:
            world.ends(killed[0], 137)
        else:
            assert world.wake_at is not None, "there is nothing to wait for"
            world.later(max(0.0, world.wake_at - world.now))
    assert world.is_over
    late = max(0.0, world.now - max(hoped, begun_to_wait))
    assert late <= LEAST_GRACE
    assert all(state.run is not Run.RUNNING for state in world.pod.containers.values())
