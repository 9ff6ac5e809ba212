"""The weighted split of a route, and how the version of a destination is written into a call."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from meshproxy.inference.call import Call, ModelRef


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """A weighted destination. Compared by identity."""

    weight: int
    server: str | None = None
    """Name of a `ModelServer`; None: the base server of the request."""
    version: str | None = None
    """What is written into calls that name neither version nor label; None, and no label: nothing."""
    label: str | None = None
    """The same. Only a label that the route does not resolve: TensorFlow Serving does."""


class Split:
    """Arms side by side between 0 and 1, in the order of the document, each as wide as its share.

    A point belongs to one arm, so the same point (a hash of a key) always gets the same arm. When a
    weight changes only borders move: with two arms, the points that change over are exactly as many as the share that
    changed; with more, a point only ever moves towards the arm that grows. So let a canary be one of two arms.
    """

    __slots__ = ("_borders", "_weighted", "arms", "total")

    def __init__(self, arms: Sequence[Arm]) -> None:
        """
        Raises:
            ValueError: every weight is 0. The schema has made sure that this does not happen.
        """
        self.arms = tuple(arms)
        self.total = sum(arm.weight for arm in arms)
        """The sum of all weights."""
        if not self.total:
            raise ValueError("every weight is 0")
        self._weighted = [arm for arm in arms if arm.weight]
        # Divided, not multiplied: k / total is below a border exactly if k is below the weights up to there. The last
        # arm has no border: a hash of 64 bits over 2^64 may be rounded to 1.
        self._borders = [border / self.total for border in accumulate(arm.weight for arm in self._weighted[:-1])]

    def at(self, point: float) -> Arm:
        """The arm at a point from 0 to 1."""
        return self._weighted[bisect_right(self._borders, point)]


def resolve_versions(call: Call, arm: Arm | None, labels: Mapping[str, str]) -> Call:
    """The call as it is to be forwarded: labels that the route knows become versions, and models that name neither
    version nor label get those of the arm. A version that was named stays, and so does a label that is not known here.
    The same object if nothing changes."""
    if arm is None or (arm.version is None and arm.label is None) or not call.verb.is_versioned:
        if not labels:
            return call
        arm = None
    models = call.models
    if len(models) == 1:
        resolved = _resolve_version(models[0], arm, labels)
        return call if resolved is models[0] else Call(call.verb, (resolved,))
    all_resolved = tuple([_resolve_version(model, arm, labels) for model in models])
    # What has not changed is the same object, which `==` of tuples compares first.
    return call if all_resolved == models else Call(call.verb, all_resolved)


def _resolve_version(model: ModelRef, arm: Arm | None, labels: Mapping[str, str]) -> ModelRef:
    if model.label is not None:
        version = labels.get(model.label)
        return model if version is None else ModelRef(model.name, version, None, model.signature)
    if model.version is not None or arm is None:
        return model
    return ModelRef(model.name, arm.version, arm.label, model.signature)


def with_version(call: Call, version: str | None, label: str | None) -> Call:
    """The call with that version or label, whatever it names itself: for mirroring. The same object if both are
    None, and for calls that no single version answers."""
    if (version is None and label is None) or not call.verb.is_versioned:
        return call
    return Call(call.verb, tuple([ModelRef(model.name, version, label, model.signature) for model in call.models]))
