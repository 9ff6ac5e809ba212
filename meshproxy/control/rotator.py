"""What an operator does to the root of a mesh: a step forward or back, if that is safe.

Where the authority is kept, in a folder or in a Secret, makes no difference to what is decided.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from meshproxy.control.authority import Authority
from meshproxy.control.root_rotation import RootRotation, before_next, before_undo, with_bundle
from meshproxy.control.store import StoreError, until_unchanged

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from meshproxy.control.leaf import Leaf
    from meshproxy.control.leaves import Leaves
    from meshproxy.control.plane import Planes
    from meshproxy.control.root_rotation import Obstacle, StoredAuthority


class Place(Protocol):
    """Where the authority of a mesh is kept. All methods raise StoreError, those that write also Changed.

    Attributes:
        where: for people.
    """

    @property
    def where(self) -> str: ...

    def lock(self) -> AbstractContextManager[None]:
        """What is read and written meanwhile belongs together."""

    def rotation(self) -> RootRotation | None:
        """The rotation that is not over."""

    def find_authority(self) -> Authority | None:
        """The authority, as the rotation has it that was asked for before; None if there is none."""

    def save_rotation(self, rotation: RootRotation) -> None:
        """Take a step."""

    def end_rotation(self, authority: StoredAuthority) -> None:
        """Go on with one of the two authorities alone."""

    def planes(self) -> Planes | None:
        """The control planes; None: they are known to notice by themselves."""


class Unsafe(Exception):
    """A step was not taken.

    Attributes:
        obstacle: why.
    """

    def __init__(self, obstacle: Obstacle) -> None:
        super().__init__(obstacle.hindrance.value)
        self.obstacle = obstacle


@dataclass(frozen=True, slots=True)
class State:
    """The root, and how far its rotation is."""

    authority: Authority
    rotation: RootRotation | None
    having: list[Leaf]
    """Certificates in use whose holders have the trust bundle of this step; without a rotation, all that are valid."""
    lacking: list[Leaf]
    """Those whose holders have not."""
    obstacle: Obstacle | None
    """What keeps the next step from being safe."""


class Rotator:
    """Rotates the root of a mesh. Control planes notice (`current_authority`).

    Args:
        place: where the authority is.
        leaves: the certificates that are out.
        clock: seconds since the epoch.
    """

    def __init__(self, place: Place, leaves: Leaves, clock: Callable[[], float] = time.time) -> None:
        self._place = place
        self._leaves = leaves
        self._clock = clock

    def state(self) -> State:
        """Raises StoreError."""
        now = self._clock()
        rotation = self._place.rotation()
        authority = self._find_authority()
        planes = self._place.planes()  # before the certificates: what a control plane says is true of what it recorded
        leaves = self._leaves.valid(now)
        if rotation is None:
            return State(authority, None, leaves, [], None)
        having, lacking = with_bundle(rotation, leaves, now)
        return State(authority, rotation, having, lacking, before_next(rotation, leaves, now, planes))

    def forward(self, *, is_forced: bool = False) -> Obstacle | None:
        """Begin a rotation, or take its next step. Returns what was ignored, if it was forced. Raises Unsafe otherwise,
        and StoreError."""
        return self._decide(lambda: self._forward(is_forced))

    def back(self, *, is_forced: bool = False) -> Obstacle | None:
        """Undo the last step. Returns and raises as `forward`; StoreError too if there is nothing to undo."""
        return self._decide(lambda: self._back(is_forced))

    def _decide(self, step: Callable[[], Obstacle | None]) -> Obstacle | None:
        """Under the lock, as often as somebody else is quicker."""

        def locked() -> Obstacle | None:
            with self._place.lock():
                return step()

        return until_unchanged(locked)

    def _forward(self, is_forced: bool) -> Obstacle | None:
        now = self._clock()
        rotation = self._place.rotation()
        if rotation is None:
            old = self._find_authority()
            self._place.save_rotation(RootRotation.begin(old, Authority.create(old.trust_domain, now), now))
            return None
        planes = self._place.planes()
        obstacle = before_next(rotation, self._leaves.valid(now), now, planes)
        self._go(rotation.forward(now), rotation.new, None if is_forced else obstacle)
        return obstacle

    def _back(self, is_forced: bool) -> Obstacle | None:
        now = self._clock()
        rotation = self._place.rotation()
        if rotation is None:
            raise StoreError(f"no rotation is under way in {self._place.where}: there is nothing to undo")
        planes = self._place.planes()
        obstacle = before_undo(rotation, self._leaves.valid(now), now, planes)
        self._go(rotation.back(now), rotation.old, None if is_forced else obstacle)
        return obstacle

    def _go(self, to: RootRotation | None, end: StoredAuthority, obstacle: Obstacle | None) -> None:
        """To another step, or to the end with this authority."""
        if obstacle is not None:
            raise Unsafe(obstacle)
        if to is None:
            self._place.end_rotation(end)
        else:
            self._place.save_rotation(to)

    def _find_authority(self) -> Authority:
        """Raises StoreError."""
        authority = self._place.find_authority()
        if authority is None:
            raise StoreError(
                f"{self._place.where} has no authority, so no control plane uses it: name the one of `meshproxy control"
                " run`, which makes it at its first start"
            )
        return authority
