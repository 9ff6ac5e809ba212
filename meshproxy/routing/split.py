"""The weighted split of a route, and how the model and version of a destination are written into a call."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

import msgspec

from meshproxy.inference.call import Call, Chosen, ModelRef


class Arm(msgspec.Struct, frozen=True, eq=False):
    """A weighted destination. Compared by identity."""

    weight: int
    server: str | None = None
    """Name of a `ModelServer`; None: the base server of the request."""
    version: str | None = None
    """What is written into calls that name neither version nor label; None, and no label: nothing."""
    label: str | None = None
    """The same. Only a label that the route does not resolve: TensorFlow Serving does."""
    model: str | None = None
    """Another model, which takes the place of the one that is named; None: that one. Calls that keep their name do not
    go to the arm's server either: those that name a version or a label, and those about all versions."""

    @property
    def rewrites(self) -> bool:
        """It writes something into calls."""
        return bool(self.model or self.version or self.label)


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

    def choose(self, call: Call, point: float) -> Arm:
        """The arm of a call: the same for every call at a point."""
        return self.at(point)

    def at(self, point: float) -> Arm:
        """The arm at a point from 0 to 1."""
        return self._weighted[bisect_right(self._borders, point)]


def resolve(call: Call, arm: Arm | None, labels: Mapping[str, str]) -> Call:
    """The call as it is to be forwarded: labels that the route knows become versions, and models that name neither
    version nor label get model, version and label of the arm. A version that was named stays, and so does a label that
    is not known here. The same object if nothing changes."""
    if arm is None or (arm.version is None and arm.label is None and arm.model is None) or not call.verb.is_versioned:
        if not labels:
            return call
        arm = None
    models = call.models
    if len(models) == 1:
        resolved = _resolve(models[0], arm, labels)
        return call if resolved is models[0] else Call(call.verb, (resolved,))
    if arm is not None and arm.model is not None and not _names_one(call):
        arm = None
    all_resolved = tuple([_resolve(model, arm, labels) for model in models])
    # What has not changed is the same object, which `==` of tuples compares first.
    return call if all_resolved == models else Call(call.verb, all_resolved)


def _resolve(model: ModelRef, arm: Arm | None, labels: Mapping[str, str]) -> ModelRef:
    if model.label is not None:
        version = labels.get(model.label)
        return model if version is None else ModelRef(model.name, version, None, model.signature)
    if model.version is not None or arm is None:
        return model
    if arm.model == model.name and arm.version is None and arm.label is None:
        return model
    return ModelRef(arm.model or model.name, arm.version, arm.label, model.signature)


def _names_one(call: Call) -> bool:
    """It names one model. If it names several, which no server answers, they must not become one by another name."""
    name = call.models[0].name
    return all(model.name == name for model in call.models)


def redirect(call: Call, model: str | None, version: str | None, label: str | None) -> Call:
    """The call with that model, version or label, whatever it names itself: for mirrors and fallbacks. Another model
    without a version: its latest. The same object if all are None, and for calls that no single version answers."""
    if not (model or version or label) or not call.verb.is_versioned or (model and not _names_one(call)):
        return call
    return Call(
        call.verb, tuple([ModelRef(model or each.name, version, label, each.signature) for each in call.models])
    )


def chosen(asked: Call, forwarded: Call) -> Chosen:
    """What must be written into a request for `asked` to make it one for `forwarded`."""
    model = forwarded.models[0]
    return Chosen(model.name if model.name != asked.models[0].name else None, model.version, model.label)
