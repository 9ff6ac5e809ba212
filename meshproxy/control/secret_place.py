"""The authority in a Secret, as whoever rotates its root reads and writes it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from meshproxy.control.authority import AuthorityError
from meshproxy.control.plane_records import PlaneRecords
from meshproxy.control.secret_content import Content, data_of, read_content
from meshproxy.control.store import StoreError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from meshproxy.control.authority import Authority
    from meshproxy.control.plane import Planes
    from meshproxy.control.root_rotation import RootRotation, StoredAuthority
    from meshproxy.control.shared_objects import SharedObjects, Version


class SecretPlace:
    """`rotator.Place`. The Secret is read once for each decision, and written on the version that was read.

    Args:
        objects: of the cluster.
        name: of the Secret.
    """

    def __init__(self, objects: SharedObjects, name: str) -> None:
        self._objects = objects
        self._name = name
        self._planes = PlaneRecords(objects, name)
        self._content: Content | None = None
        self._version: Version | None = None

    @property
    def where(self) -> str:
        """For people."""
        return self._objects.where("secrets", self._name)

    def lock(self) -> AbstractContextManager[None]:
        """Whoever writes in between makes the write fail: nobody has to wait."""
        return nullcontext()

    def rotation(self) -> RootRotation | None:
        """Reads the Secret. Raises StoreError."""
        data, self._version = self._objects.read("secrets", self._name)
        self._content = read_content(data, self.where) if self._version.text else None
        return self._content.rotation if self._content is not None else None

    def find_authority(self) -> Authority | None:
        """As it was read with the rotation."""
        return self._content.authority if self._content is not None else None

    def save_rotation(self, rotation: RootRotation) -> None:
        """Take a step. Raises Changed and StoreError."""
        try:
            self._write(Content(rotation.authority(), rotation))
        except AuthorityError as error:
            raise StoreError(f"the rotation in {self.where} cannot be used: {error}") from error

    def end_rotation(self, authority: StoredAuthority) -> None:
        """Go on with one of the two authorities alone. Raises Changed and StoreError."""
        try:
            self._write(Content(authority.load()))
        except AuthorityError as error:
            raise StoreError(f"the rotation in {self.where} cannot be ended: {error}") from error

    def planes(self) -> Planes:
        """The control planes that follow it. Raises StoreError."""
        return self._planes.read()

    def _write(self, content: Content) -> None:
        assert self._version is not None
        self._objects.write("secrets", self._name, data_of(content), self._version)
