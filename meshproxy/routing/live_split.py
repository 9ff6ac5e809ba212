"""The two arms of a rollout, whose weight moves while requests are being carried: no document is loaded for it.

The object stays the same as long as the arms do (`CarriedState.live_split`): a reload keeps the weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.routing.split import Arm

if TYPE_CHECKING:
    from meshproxy.config.rollouts import RolloutSpec
    from meshproxy.inference.call import Call


class RolloutArm(Arm, frozen=True, eq=False):
    """An arm of a rollout: its calls are measured."""

    is_candidate: bool = False


class LiveSplit:
    """Stable version and candidate. `weight` may be set at any time."""

    __slots__ = ("arms", "bystander", "candidate", "name", "revision", "stable", "total", "weight")

    def __init__(self, name: str, spec: RolloutSpec) -> None:
        self.name = name
        """Of the document."""
        self.revision = spec.revision
        stable, candidate = spec.stable, spec.candidate
        self.stable = RolloutArm(0, stable.server, stable.version, stable.label, stable.model)
        self.candidate = RolloutArm(0, candidate.server, candidate.version, candidate.label, candidate.model, True)
        self.bystander = Arm(0, stable.server)
        """Of calls that choose their version themselves: they go to the stable version's server, and count nowhere."""
        self.arms = (self.stable, self.candidate)
        self.total = 100
        self.weight = 0.0
        """The candidate's percentage."""

    def choose(self, call: Call, point: float) -> Arm:
        """The arm of a call at a point from 0 to 1. While the weight grows, a point only ever moves to the
        candidate."""
        if not call.verb.is_versioned:
            return self.bystander
        for model in call.models:
            if model.version is not None or model.label is not None:
                return self.bystander
        return self.candidate if point * 100 < self.weight else self.stable
