"""The way from one root of the mesh to the next, in steps of which each is safe before it is taken.

step        signs      trust bundle    the next step is safe when
DISTRIBUTE  old root   old and new     every sidecar has the new root
SIGN        new root   old and new     no certificate of the old root is valid any more
RETIRE      new root   new             every sidecar has forgotten the old root; then the rotation is over

A rotation is one value, which holds both authorities: whoever has it needs nothing else to go on, or back.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from meshproxy.control.authority import Authority
from meshproxy.control.plane import TELLS_EVERY
from meshproxy.control_api import roots_digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshproxy.control.leaf import Leaf
    from meshproxy.control.plane import Plane, Planes

SETTLE_SECONDS = 10.0
"""How long a step lasts at least: until every control plane has noticed it, has ended the calls that began before, and
every worker uses the bundle that its supervisor has."""


class Step(Enum):
    """How far a rotation is."""

    DISTRIBUTE = "distribute"
    SIGN = "sign"
    RETIRE = "retire"


STEPS = tuple(Step)


class StoredAuthority(msgspec.Struct, frozen=True):
    """An authority as PEM."""

    certificate: str
    """Of the authority; below a root, the certificates up to it follow."""
    key: str
    roots: str

    @classmethod
    def of(cls, authority: Authority) -> StoredAuthority:
        return cls(authority.chain_pem.decode(), authority.key_pem.decode(), authority.bundle_pem.decode())

    def load(self, roots: str | None = None) -> Authority:
        """With its own roots, or with these. Raises AuthorityError."""
        return Authority.load(self.certificate.encode(), self.key.encode(), (roots or self.roots).encode())

    def __repr__(self) -> str:
        return "StoredAuthority(...)"


class RootRotation(msgspec.Struct, frozen=True):
    """A rotation that is not over."""

    step: Step
    since: float
    """When the step was taken, seconds since the epoch."""
    old: StoredAuthority
    new: StoredAuthority

    @classmethod
    def begin(cls, old: Authority, new: Authority, now: float) -> RootRotation:
        """The first step."""
        return cls(Step.DISTRIBUTE, now, StoredAuthority.of(old), StoredAuthority.of(new))

    @property
    def roots(self) -> str:
        """The trust bundle during this step."""
        return self.new.roots if self.step is Step.RETIRE else f"{self.old.roots.rstrip()}\n{self.new.roots}"

    def authority(self) -> Authority:
        """Who signs during this step. Raises AuthorityError."""
        return (self.old if self.step is Step.DISTRIBUTE else self.new).load(self.roots)

    def ids(self) -> tuple[str, str]:
        """`Authority.id` of the old and of the new one. Raises AuthorityError."""
        return self.old.load().id, self.new.load().id

    def forward(self, now: float) -> RootRotation | None:
        """The next step; None after the last one."""
        return self._moved(1, now)

    def back(self, now: float) -> RootRotation | None:
        """The step before; None before the first one."""
        return self._moved(-1, now)

    def _moved(self, by: int, now: float) -> RootRotation | None:
        position = STEPS.index(self.step) + by
        return msgspec.structs.replace(self, step=STEPS[position], since=now) if 0 <= position < len(STEPS) else None


def in_force(authority: Authority) -> str:
    """Who signs, and what is trusted: differs from step to step."""
    return f"{authority.id} {roots_digest(authority.bundle_pem)}"


class Hindrance(Enum):
    """Why a step is not safe; the value says what it would break."""

    UNNOTICED = "these control planes may still sign as before the last step: nobody knows what they have issued"
    NOBODY = "no control plane says that it follows this authority: nobody gives sidecars the trust bundle"
    UNTOLD = "the record of control planes has just been made: one may not have said by which authority it signs"
    UNSETTLED = "the last step has just been taken: a control plane may not have noticed it yet"
    WITHOUT_BUNDLE = "handshakes of these sidecars with others fail until they have the trust bundle"
    STILL_VALID = "nobody accepts these certificates any more, until their holders have renewed them"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a step is not safe yet."""

    hindrance: Hindrance
    leaves: tuple[Leaf, ...] = ()
    """The certificates that are concerned."""
    until: float = 0.0
    """When it passes without anybody's doing, at the latest: seconds since the epoch."""
    planes: tuple[Plane, ...] = ()
    """The control planes that are concerned."""


def with_bundle(rotation: RootRotation, leaves: Iterable[Leaf], now: float) -> tuple[list[Leaf], list[Leaf]]:
    """The certificates in use whose holders have the trust bundle of this step, and those whose have not. Raises
    AuthorityError."""
    digest = roots_digest(rotation.authority().bundle_pem)
    in_use = [leaf for leaf in leaves if leaf.is_valid(now) and not leaf.is_replaced]
    return [leaf for leaf in in_use if leaf.roots == digest], [leaf for leaf in in_use if leaf.roots != digest]


def before_next(
    rotation: RootRotation, leaves: Iterable[Leaf], now: float, planes: Planes | None = None
) -> Obstacle | None:
    """Why the next step is not safe; None if it is.

    Args:
        rotation: that is under way.
        leaves: the certificates that are out.
        now: seconds since the epoch.
        planes: the control planes. None: they share a folder, and look at it before each certificate.

    Raises:
        AuthorityError: its authorities cannot be used.
    """
    early = _unsettled(rotation, planes, now)
    if early is not None:
        return early
    if rotation.step is Step.SIGN:
        return _still_valid(rotation.ids()[0], leaves, now)
    return _without_bundle(rotation, leaves, now)


def before_undo(
    rotation: RootRotation, leaves: Iterable[Leaf], now: float, planes: Planes | None = None
) -> Obstacle | None:
    """Why the step before is not safe. Arguments and errors are those of `before_next`."""
    if rotation.step is Step.RETIRE:
        return None  # to trust more than before breaks nothing
    early = _unsettled(rotation, planes, now)
    if early is not None:
        return early
    if rotation.step is Step.SIGN:
        return _without_bundle(rotation, leaves, now)  # some may not have the old root back yet
    return _still_valid(rotation.ids()[1], leaves, now)


def _unsettled(rotation: RootRotation, planes: Planes | None, now: float) -> Obstacle | None:
    """Why control planes may not have taken the last step yet. Raises AuthorityError."""
    settled = rotation.since + SETTLE_SECONDS
    if now < settled:
        return Obstacle(Hindrance.UNSETTLED, until=settled)
    if planes is None:
        return None
    alive = [plane for plane in planes.entries if now < plane.over]
    if not alive:
        return Obstacle(Hindrance.NOBODY, until=now)
    expected = in_force(rotation.authority())
    behind = tuple(plane for plane in alive if plane.signs_by != expected)
    if behind:
        return Obstacle(Hindrance.UNNOTICED, planes=behind, until=max(plane.over for plane in behind))
    told = planes.since + TELLS_EVERY + SETTLE_SECONDS
    return Obstacle(Hindrance.UNTOLD, until=told) if now < told else None


def _without_bundle(rotation: RootRotation, leaves: Iterable[Leaf], now: float) -> Obstacle | None:
    return _obstacle(Hindrance.WITHOUT_BUNDLE, with_bundle(rotation, leaves, now)[1])


def _still_valid(authority: str, leaves: Iterable[Leaf], now: float) -> Obstacle | None:
    signed = [leaf for leaf in leaves if leaf.is_valid(now) and leaf.authority == authority]
    return _obstacle(Hindrance.STILL_VALID, signed)


def _obstacle(hindrance: Hindrance, leaves: list[Leaf]) -> Obstacle | None:
    if not leaves:
        return None
    return Obstacle(hindrance, tuple(leaves), max(leaf.not_after for leaf in leaves) + 1.0)
