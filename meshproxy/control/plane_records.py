"""The control planes that share a Secret: an entry for each in one ConfigMap, which only its owner writes."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from meshproxy.control.plane import Plane, Planes
from meshproxy.control.store import Changed
from meshproxy.installation.rights import control_planes_name

if TYPE_CHECKING:
    from meshproxy.control.shared_objects import SharedObjects, Version


class PlaneRecords:
    """The entries. Every call blocks, and raises StoreError.

    Args:
        objects: of the cluster.
        secret: the name of the Secret that they share.
    """

    def __init__(self, objects: SharedObjects, secret: str) -> None:
        self._objects = objects
        self._name = control_planes_name(secret)

    def read(self) -> Planes:
        """All of them; one that cannot be understood is an error, since nobody knows by what it signs."""
        planes, version = self._read()
        return Planes([planes[name] for name in sorted(planes)], version.created)

    def write(self, plane: Plane) -> None:
        """Its own entry."""
        self._objects.write_structs(self._name, {plane.name: plane})

    def remove(self, name: str) -> None:
        """It signs nothing any more, and what it has issued is recorded."""
        self._objects.write_structs(self._name, {name: None})

    def prune(self, now: float) -> None:
        """Remove those of which no certificate can be valid any more; another time, if others write meanwhile: one of
        them may have come back."""
        planes, version = self._read()
        over = [name for name, plane in planes.items() if plane.over < now]
        if over:
            with suppress(Changed):
                self._objects.write_structs(self._name, dict.fromkeys(over), version)

    def _read(self) -> tuple[dict[str, Plane], Version]:
        return self._objects.read_structs(self._name, Plane, "of a control plane of this version")
