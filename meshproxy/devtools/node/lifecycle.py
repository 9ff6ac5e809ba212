"""One pod: what is to be done next. Times are in seconds of one clock.

`observe` notes what has happened, `decide` says what to do. The rules are those of a kubelet:

- Init containers run one after the other. A native sidecar among them need not end: the next one waits until its
  startup probe has passed. Then the containers start together.
- What has ended is started again if its restart policy says so, after a pause that doubles.
- A container is ended by its preStop hook, then SIGTERM, then SIGKILL when its grace period is over. When the pod ends,
  all hooks begin at once, and a native sidecar gets its SIGTERM once the containers have ended and the sidecars that
  started after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING

from meshproxy.devtools.node.probing import Kind, Probing, probe_of, took

if TYPE_CHECKING:
    from meshproxy.devtools.node.spec import Container, Spec

FIRST_PAUSE, LAST_PAUSE = 10.0, 300.0
"""Before a container is started for the third time, and at most."""
LEAST_GRACE = 2.0
"""Between SIGTERM and SIGKILL, also when the grace period is over."""


class Run(Enum):
    """Where a container is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


class Stop(Enum):
    """How far the end of a running container has come."""

    NO = "no"
    HOOK = "its preStop hook runs"
    TURN = "it waits for its SIGTERM"
    SIGNALLED = "it had its SIGTERM"
    KILLED = "it had its SIGKILL"


@dataclass(frozen=True, slots=True)
class State:
    """A container.

    Attributes:
        began: when it was started last.
        ended: when it ended last.
        starts: how often it was.
        code: its exit status, of the last run that has ended; None if none has.
        deadline: when its grace period is over.
        signalled: when it had its SIGTERM.
    """

    run: Run = Run.WAITING
    began: float = 0.0
    ended: float = 0.0
    starts: int = 0
    code: int | None = None
    stop: Stop = Stop.NO
    deadline: float = 0.0
    signalled: float = 0.0
    probes: Mapping[Kind, Probing] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def is_started(self) -> bool:
        """It runs, and its startup probe has passed if it has one."""
        startup = self.probes.get(Kind.STARTUP)
        return self.run is Run.RUNNING and (startup is None or startup.is_passed is True)

    @property
    def is_ready(self) -> bool:
        readiness = self.probes.get(Kind.READINESS)
        return self.is_started and (readiness is None or readiness.is_passed is True)


@dataclass(frozen=True, slots=True)
class Pod:
    """All containers of a pod, by name.

    Attributes:
        deadline: when its grace period is over; None: nobody has deleted it.
    """

    containers: Mapping[str, State]
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The process of a container has ended."""

    name: str
    code: int


@dataclass(frozen=True, slots=True)
class HookEnded:
    """The preStop hook of a run of a container is over, however it went."""

    name: str
    starts: int


@dataclass(frozen=True, slots=True)
class Probed:
    """A probe of a run of a container has a result."""

    name: str
    starts: int
    kind: Kind
    is_success: bool


@dataclass(frozen=True, slots=True)
class Deleted:
    """The pod has been deleted, with this grace period."""

    grace: float


Event = Ended | HookEnded | Probed | Deleted


class Do(Enum):
    """What to do with a container."""

    START = "start"
    STARTUP = Kind.STARTUP
    READINESS = Kind.READINESS
    LIVENESS = Kind.LIVENESS
    HOOK = "hook"
    TERMINATE = "terminate"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Step:
    """What follows.

    Attributes:
        actions: in this order; each has been noted in `pod`.
        wake_at: when to decide again if nothing happens; None: never.
        is_over: a deleted pod has no process any more.
    """

    pod: Pod
    actions: tuple[tuple[Do, str], ...]
    wake_at: float | None
    is_over: bool


def begin(spec: Spec) -> Pod:
    """A pod of which nothing has been started."""
    return Pod({container.name: State() for container in spec.all_containers})


def observe(spec: Spec, pod: Pod, event: Event, now: float) -> Pod:
    """Something has happened. What tells of a run that is over changes nothing."""
    if isinstance(event, Deleted):
        deadline = now + event.grace
        return replace(pod, deadline=deadline if pod.deadline is None else min(deadline, pod.deadline))
    state = pod.containers[event.name]
    if isinstance(event, Ended):
        state = replace(state, run=Run.ENDED, ended=now, code=event.code, stop=Stop.NO, probes={})
    elif event.starts != state.starts or state.run is not Run.RUNNING:
        return pod
    elif isinstance(event, HookEnded):
        if state.stop is Stop.HOOK:
            state = replace(state, stop=Stop.TURN)
    else:
        probe = probe_of(spec.container(event.name), event.kind)
        assert probe is not None
        probing = took(state.probes[event.kind], probe, is_success=event.is_success, now=now)
        state = replace(state, probes={**state.probes, event.kind: probing})
    return replace(pod, containers={**pod.containers, event.name: state})


def decide(spec: Spec, pod: Pod, now: float) -> Step:
    """What is to be done now."""
    deciding = _Deciding(spec, pod, now)
    deciding.run()
    is_over = pod.deadline is not None and all(state.run is not Run.RUNNING for state in deciding.states.values())
    return Step(
        replace(pod, containers=deciding.states),
        tuple(deciding.actions),
        min(deciding.times, default=None),
        is_over,
    )


def is_finished(spec: Spec, pod: Pod) -> bool:
    """The pod has done what it is for, or failed to: no container will be started again."""
    return _is_failed_early(spec, pod) or all(
        (state := pod.containers[container.name]).run is Run.ENDED and not _is_restarted(spec.restart_policy, state)
        for container in spec.containers
    )


def is_initialized(spec: Spec, pod: Pod) -> bool:
    """All init containers have done their work; the sidecars among them have started."""
    if any(pod.containers[container.name].starts for container in spec.containers):
        return True
    return all(_is_through(container, pod.containers[container.name]) for container in spec.init_containers)


def _is_through(container: Container, state: State) -> bool:
    return state.is_started if container.is_sidecar else state.run is Run.ENDED and state.code == 0


def _is_failed_early(spec: Spec, pod: Pod) -> bool:
    """An init container has failed that is not started again."""
    states = [pod.containers[each.name] for each in spec.init_containers if not each.is_sidecar]
    return spec.restart_policy == "Never" and any(state.run is Run.ENDED and state.code != 0 for state in states)


def _is_restarted(policy: str, state: State) -> bool:
    return policy == "Always" or (policy == "OnFailure" and state.code != 0)


def pause_before(starts: int) -> float:
    """Seconds between the end of a container that was started so often and its next start."""
    return 0.0 if starts < 2 else min(LAST_PAUSE, FIRST_PAUSE * 2.0 ** min(starts - 2, 10))


class _Deciding:
    def __init__(self, spec: Spec, pod: Pod, now: float) -> None:
        self.spec = spec
        self.pod = pod
        self.now = now
        self.states = dict(pod.containers)
        self.actions: list[tuple[Do, str]] = []
        self.times: list[float] = []
        """When something is due that is not yet."""

    def run(self) -> None:
        if self.pod.deadline is not None:
            for container in self.spec.all_containers:
                self._end(container, self.pod.deadline)
        elif is_finished(self.spec, self.pod):
            for container in self.spec.init_containers:
                self._end(container, self.now + self.spec.termination_grace_period_seconds)
        else:
            self._start_all()
        for container in self.spec.all_containers:
            self._probe(container)
            self._go_on_ending(container)

    def _start_all(self) -> None:
        begun = any(self.states[container.name].starts for container in self.spec.containers)
        for container in self.spec.init_containers:
            if container.is_sidecar:
                self._start(container, "Always")
            elif not begun and not _is_through(container, self.states[container.name]):
                self._start(container, "OnFailure")
            if not begun and not _is_through(container, self.states[container.name]):
                return
        for container in self.spec.containers:
            self._start(container, self.spec.restart_policy)

    def _start(self, container: Container, policy: str) -> None:
        state = self.states[container.name]
        if state.run is Run.RUNNING or (state.run is Run.ENDED and not _is_restarted(policy, state)):
            return
        if state.run is Run.ENDED and not self._is_time(state.ended + pause_before(state.starts)):
            return
        probes = {
            kind: Probing(self.now + probe.initial_delay_seconds)
            for kind in Kind
            if (probe := probe_of(container, kind)) is not None
        }
        self.states[container.name] = replace(
            state,
            run=Run.RUNNING,
            began=self.now,
            starts=state.starts + 1,
            probes=probes,
        )
        self.actions.append((Do.START, container.name))

    def _probe(self, container: Container) -> None:
        state = self.states[container.name]
        if state.run is not Run.RUNNING:
            return
        has_failed = any(
            probing.is_passed is False for kind, probing in state.probes.items() if kind is not Kind.READINESS
        )
        if has_failed and self.pod.deadline is None:
            self._end(container, self.now + self.spec.termination_grace_period_seconds)
            return
        for kind, probing in state.probes.items():
            is_wanted = state.is_started == (kind is not Kind.STARTUP)
            if self.pod.deadline is not None and kind is not Kind.READINESS:
                is_wanted = False
            if probing.is_running or not is_wanted or not self._is_time(probing.next_at):
                continue
            state = replace(state, probes={**state.probes, kind: replace(probing, next_at=self.now, is_running=True)})
            self.states[container.name] = state
            self.actions.append((Do(kind), container.name))

    def _end(self, container: Container, deadline: float) -> None:
        state = self.states[container.name]
        if state.run is not Run.RUNNING:
            return
        if state.stop is Stop.NO:
            has_hook = container.lifecycle.pre_stop is not None
            if has_hook:
                self.actions.append((Do.HOOK, container.name))
            state = replace(state, stop=Stop.HOOK if has_hook else Stop.TURN, deadline=deadline)
        else:
            state = replace(state, deadline=min(deadline, state.deadline))
        self.states[container.name] = state

    def _go_on_ending(self, container: Container) -> None:
        state = self.states[container.name]
        if state.run is not Run.RUNNING or state.stop in (Stop.NO, Stop.KILLED):
            return
        if state.stop is Stop.SIGNALLED:
            if self._is_time(max(state.deadline, state.signalled + LEAST_GRACE)):
                self.states[container.name] = replace(state, stop=Stop.KILLED)
                self.actions.append((Do.KILL, container.name))
        elif self._is_time(state.deadline) or (state.stop is Stop.TURN and self._is_turn(container)):
            self.states[container.name] = replace(state, stop=Stop.SIGNALLED, signalled=self.now)
            self.times.append(max(state.deadline, self.now + LEAST_GRACE))
            self.actions.append((Do.TERMINATE, container.name))

    def _is_turn(self, container: Container) -> bool:
        """Nothing runs that is to end before it."""
        if container not in self.spec.init_containers or not container.is_sidecar:
            return True
        if self.pod.deadline is None and not is_finished(self.spec, self.pod):
            return True
        later = self.spec.init_containers[self.spec.init_containers.index(container) + 1 :]
        return all(self.states[each.name].run is not Run.RUNNING for each in (*later, *self.spec.containers))

    def _is_time(self, at: float) -> bool:
        if self.now < at:
            self.times.append(at)
        return self.now >= at
