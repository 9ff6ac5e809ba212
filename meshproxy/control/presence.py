"""Says of a control plane by which authority it signs, where everybody who rotates the root reads it.

That is said only when it is true without exception: when it has read the Secret, signs by what that says, and every
certificate that it has given out is recorded. It signs for a day after it has said so last (`plane.SIGNS_ON`), and no
longer: whoever waits for it knows until when.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import threading
from typing import TYPE_CHECKING

import msgspec

from meshproxy.control.plane import SIGNS_ON, TELLS_EVERY, Plane
from meshproxy.control.store import StoreError, read_record
from meshproxy.identity.private_files import replace_file

if TYPE_CHECKING:
    from pathlib import Path

    from meshproxy.control.plane_records import PlaneRecords

logger = logging.getLogger(__name__)

FILE = "control-plane.json"
"""In its folder: under which name it has said something, and when. A restart goes on with that."""


class _Said(msgspec.Struct, frozen=True):
    name: str
    confirmed: float = 0.0


class Presence:
    """One control plane's entry."""

    def __init__(self, records: PlaneRecords, folder: Path, lifetime: float) -> None:
        """Nothing is said yet.

        Args:
            records: of all control planes.
            folder: of this one.
            lifetime: of the certificates that it issues, in seconds.

        Raises:
            StoreError: the folder cannot be read.
        """
        self._records = records
        self._path = folder / FILE
        self._lifetime = lifetime
        self._signs_by = ""
        self._problem = ""
        self._lock = threading.Lock()
        """Held by one call at a time: one that nobody waits for any more must not come after the end."""
        self._has_ended = False
        said = read_record(self._path, _Said, "the record of a control plane: remove it")
        self._said = said or _Said(f"{socket.gethostname()}-{secrets.token_hex(4)}")

    @property
    def name(self) -> str:
        """Of the entry."""
        return self._said.name

    @property
    def signs_until(self) -> float:
        """Until when others can know of what is signed, in seconds since the epoch."""
        return self._said.confirmed + SIGNS_ON

    def may_sign(self, now: float) -> bool:
        """Whether others can know of what is signed at this time, in seconds since the epoch."""
        return now < self.signs_until

    async def tell(self, signs_by: str, read_at: float) -> None:
        """Say by which authority it signs, if that is news.

        Args:
            signs_by: `root_rotation.in_force`.
            read_at: when it had read that, seconds since the epoch; 0: it has not read it.
        """
        if not read_at:
            return
        if signs_by == self._signs_by and read_at < self._said.confirmed + TELLS_EVERY:
            return
        plane = Plane(self.name, signs_by, read_at, self._lifetime)
        try:
            await asyncio.to_thread(self._tell, plane)
        except StoreError as error:
            if str(error) != self._problem:
                logger.error(
                    "nobody can know by which authority this control plane signs; trying again",
                    extra={"fields": {"problem": str(error)}},
                )
            self._problem = str(error)
        else:
            self._signs_by, self._problem = signs_by, ""

    async def first(self, signs_by: str, read_at: float, now: float) -> None:
        """Say it before anything is issued. Raises StoreError if it cannot be said, and nothing was said in the last
        day."""
        await self.tell(signs_by, read_at)
        if not self.may_sign(now):
            raise StoreError(self._problem or "nothing may be issued before the API server has said by which authority")

    async def end(self) -> None:
        """Nothing is signed any more, and all is recorded."""
        try:
            await asyncio.to_thread(self._end)
        except StoreError as error:
            logger.error(
                "others will wait for the certificates of this control plane to expire, or for its next start",
                extra={"fields": {"problem": str(error)}},
            )

    def prune(self, now: float) -> None:
        """Remove entries of control planes whose certificates have all expired. Raises StoreError."""
        self._records.prune(now)

    def _tell(self, plane: Plane) -> None:
        """Raises StoreError."""
        with self._lock:
            if self._has_ended:
                return
            if not self._path.exists():
                self._write(self._said)  # the name, before others know it
            self._records.write(plane)
            self._said = _Said(plane.name, plane.confirmed)
            self._write(self._said)

    def _end(self) -> None:
        """Raises StoreError."""
        with self._lock:
            self._has_ended = True
            self._write(_Said(self.name))  # before: without an entry nothing may be signed
            try:
                self._records.remove(self.name)
            except StoreError:
                self._write(self._said)
                raise

    def _write(self, said: _Said) -> None:
        """Raises StoreError."""
        try:
            replace_file(self._path, msgspec.json.encode(said), 0o600)
        except OSError as error:
            raise StoreError(f"{self._path} cannot be written: {error.strerror}") from error
