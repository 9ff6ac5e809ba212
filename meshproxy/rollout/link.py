"""What the sidecars and the controller of rollouts tell each other (`control_api.ROLLOUTS`).

A sidecar sends what each arm did since it last said so, and that it has taken a candidate out by itself. It is sent the
state of each rollout that it chooses for. Both sides name the arms by their revision: what is said of other arms than
those at hand is not for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Protocol

import msgspec

from meshproxy.rollout.window import ArmWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Text = Annotated[str, msgspec.Meta(max_length=256)]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class RolloutState(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a rollout is: from the controller to the sidecars."""

    rollout: Text
    """The name of its document."""
    revision: Text
    """Of its arms (`RolloutSpec.revision`)."""
    attempt: Number = 0
    """Counts up with each retry. A candidate that a sidecar has taken out stays out until there is a higher one."""
    weight: Percent = 0.0
    """The candidate's percentage."""
    is_active: bool = True
    """It is being judged. false: the weight is final, nothing is measured, and nothing trips."""


class ReportedRollout(msgspec.Struct, omit_defaults=True):
    """One rollout at one sidecar since its last report."""

    rollout: Text
    revision: Text
    attempt: Number = 0
    stable: ArmWindow = msgspec.field(default_factory=ArmWindow)
    candidate: ArmWindow = msgspec.field(default_factory=ArmWindow)
    killed: Text = ""
    """Why the candidate is out here; empty: it is not."""


class RolloutsReport(msgspec.Struct):
    """What a sidecar says."""

    sidecar: Text
    """The name of its document."""
    rollouts: Annotated[tuple[ReportedRollout, ...], msgspec.Meta(max_length=256)] = ()


class RolloutStates(msgspec.Struct, frozen=True):
    """What a sidecar is told: all rollouts that it chooses for, each time that one of them changes."""

    rollouts: tuple[RolloutState, ...] = ()


class Kill(msgspec.Struct, frozen=True):
    """A sidecar has taken a candidate out by itself."""

    rollout: str
    revision: str
    attempt: int
    sidecar: str
    """Its SPIFFE id."""
    why: str


class Merged(msgspec.Struct):
    """What all sidecars together have reported of one rollout since that was asked last."""

    stable: ArmWindow
    candidate: ArmWindow
    sidecars: int = 0
    """That have reported anything."""


class Fleet(Protocol):
    """The sidecars, as the controller sees them (`control.rollout_service.RolloutService`)."""

    on_kill: Callable[[Kill], None]
    """Called at once, for every sidecar that says so, and once for each attempt."""

    def collect(self, rollout: str, revision: str) -> Merged:
        """What was reported of these arms since the last call; what was reported of others is forgotten."""

    def publish(self, states: Iterable[RolloutState]) -> None:
        """These are the states of all rollouts now: sidecars are told what has changed for them."""
