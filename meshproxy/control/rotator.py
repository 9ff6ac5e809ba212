"""What an operator does to the root of a mesh: a step forward or back, if that is safe."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshproxy.control.authority import Authority
from meshproxy.control.leaves import FolderLeaves
from meshproxy.control.root_rotation import RootRotation, before_next, before_undo, with_bundle
from meshproxy.control.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.control.leaf import Leaf
    from meshproxy.control.root_rotation import Obstacle, StoredAuthority
    from meshproxy.control.store import FolderStore


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
    """Rotates the root of a store. Control planes notice (`current_authority`).

    Args:
        store: of the control planes.
        clock: seconds since the epoch.
    """

    def __init__(self, store: FolderStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._leaves = FolderLeaves(store.folder)
        self._clock = clock

    def state(self) -> State:
        """Raises StoreError."""
        now = self._clock()
        rotation = self._store.rotation()
        authority = self._find_authority()
        leaves = self._leaves.valid(now)
        if rotation is None:
            return State(authority, None, leaves, [], None)
        having, lacking = with_bundle(rotation, leaves, now)
        return State(authority, rotation, having, lacking, before_next(rotation, leaves, now))

    def forward(self, *, is_forced: bool = False) -> Obstacle | None:
        """Begin a rotation, or take its next step. Returns what was ignored, if it was forced. Raises Unsafe otherwise,
        and StoreError."""
        with self._store.lock():
            now = self._clock()
            rotation = self._store.rotation()
            if rotation is None:
                old = self._find_authority()
                self._store.save_rotation(RootRotation.begin(old, Authority.create(old.trust_domain, now), now))
                return None
            obstacle = before_next(rotation, self._leaves.valid(now), now)
            self._go(rotation.forward(now), rotation.new, None if is_forced else obstacle)
            return obstacle

    def back(self, *, is_forced: bool = False) -> Obstacle | None:
        """Undo the last step. Returns and raises as `forward`; StoreError too if there is nothing to undo."""
        with self._store.lock():
            now = self._clock()
            rotation = self._store.rotation()
            if rotation is None:
                raise StoreError(f"no rotation is under way in {self._store.folder}: there is nothing to undo")
            obstacle = before_undo(rotation, self._leaves.valid(now), now)
            self._go(rotation.back(now), rotation.old, None if is_forced else obstacle)
            return obstacle

    def _go(self, to: RootRotation | None, end: StoredAuthority, obstacle: Obstacle | None) -> None:
        """To another step, or to the end with this authority."""
        if obstacle is not None:
            raise Unsafe(obstacle)
        if to is None:
            self._store.end_rotation(end)
        else:
            self._store.save_rotation(to)

    def _find_authority(self) -> Authority:
        """Raises StoreError."""
        authority = self._store.find_authority()
        if authority is None:
            raise StoreError(
                f"{self._store.folder} has no authority, so it is no control plane's folder: start `meshproxy control "
                "run` first"
            )
        return authority
