"""The certificates that are out: a file for each, until it expires.

From them one knows, whichever control plane has issued them and whether their holders are connected or not, who may
still lack a trust bundle, and when the last certificate of an authority is over.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from meshproxy.control.leaf import Leaf, is_name
from meshproxy.control.store import StoreError
from meshproxy.identity.private_files import replace_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

FOLDER = "leaves"
UNWRITTEN = 100_000
"""Certificates that a control plane remembers while its disk is full."""


class FolderLeaves:
    """One file a certificate, replaced as a whole: several processes may share the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER

    def write(self, leaf: Leaf) -> None:
        """Keep a certificate, or what is known of it now. Raises StoreError."""
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            replace_file(self.folder / leaf.name, msgspec.json.encode(leaf), 0o600)
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be written: {error.strerror}") from error

    def read(self, name: str) -> Leaf | None:
        """What is known of one. Raises StoreError."""
        path = self.folder / name
        try:
            return msgspec.json.decode(path.read_bytes(), type=Leaf)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from error
        except msgspec.DecodeError:
            raise StoreError(f"{path} is not the record of a certificate: remove it") from None

    def valid(self, now: float) -> list[Leaf]:
        """Those that have not expired. Raises StoreError."""
        found = [self.read(name) for name in sorted(self._names())]
        return [leaf for leaf in found if leaf is not None and leaf.is_valid(now)]

    def prune(self, now: float) -> None:
        """Remove those that have expired. Raises StoreError."""
        for name in self._names():
            if not Leaf(name, "", "").is_valid(now):
                try:
                    (self.folder / name).unlink(missing_ok=True)
                except OSError as error:
                    raise StoreError(f"{self.folder} cannot be pruned: {error.strerror}") from error

    def _names(self) -> Iterator[str]:
        try:
            yield from (path.name for path in self.folder.iterdir() if is_name(path.name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be read: {error.strerror}") from error


class Roll:
    """What one control plane tells of the certificates that it issues and sees in use.

    A new one is written before it is given out. What sidecars say of themselves is written a moment later, since it
    only ever adds to what they have. While the disk is full both are kept here, and certificates are issued.
    """

    def __init__(self, kept: FolderLeaves) -> None:
        self._kept = kept
        self._unwritten: dict[str, Leaf] = {}
        self._sightings: dict[str, tuple[Leaf, bool]] = {}
        """By the certificate of the connection: what was said there last, and whether it is about that certificate."""
        self._problem = ""
        self.failures = 0
        """Attempts to write that failed."""

    async def issued(self, leaf: Leaf) -> None:
        """A certificate that is about to be given out."""
        try:
            await asyncio.to_thread(self._kept.write, leaf)
        except StoreError as error:
            self._failed(error)
            self._unwritten[leaf.name] = leaf
            if len(self._unwritten) > UNWRITTEN:
                del self._unwritten[next(iter(self._unwritten))]

    def seen(self, connection: str, leaf: Leaf) -> None:
        """A sidecar has this certificate and this bundle, it says.

        Args:
            connection: the name of the certificate with which it is connected.
            leaf: what it says. Of one that is not known, it is believed if that is the certificate of the connection.
        """
        self._sightings[connection] = leaf, leaf.name == connection

    async def flush(self) -> None:
        """Write what is not written yet."""
        if not self._sightings and not self._unwritten:
            return
        unwritten, self._unwritten = self._unwritten, {}
        sightings, self._sightings = self._sightings, {}
        try:
            await asyncio.to_thread(self._write, unwritten, sightings)
        except StoreError as error:
            self._failed(error)
        else:
            self._problem = ""
        self._unwritten = unwritten | self._unwritten
        self._sightings = sightings | self._sightings

    def _write(self, unwritten: dict[str, Leaf], sightings: dict[str, tuple[Leaf, bool]]) -> None:
        """Empties both as far as it comes. Raises StoreError."""
        for name in list(unwritten):
            self._kept.write(unwritten[name])
            del unwritten[name]
        for connection in list(sightings):
            self._merge(*sightings[connection])
            del sightings[connection]

    def _merge(self, seen: Leaf, is_proven: bool) -> None:
        before = self._kept.read(seen.name)
        if before is None:
            if is_proven:
                self._kept.write(seen)
            return
        if before.spiffe_id != seen.spiffe_id:
            return  # another workload's
        if before.replaces and (replaced := self._kept.read(before.replaces)) is not None:
            self._kept.write(msgspec.structs.replace(replaced, is_replaced=True))
        after = msgspec.structs.replace(before, roots=seen.roots, sidecar=seen.sidecar, replaces="", is_replaced=False)
        if after != before:  # a sidecar that connects again from another port costs no write
            self._kept.write(msgspec.structs.replace(after, peer=seen.peer))

    def _failed(self, error: StoreError) -> None:
        self.failures += 1
        if str(error) != self._problem:
            logger.error(
                "what certificates are out cannot be written; trying again", extra={"fields": {"problem": str(error)}}
            )
        self._problem = str(error)
