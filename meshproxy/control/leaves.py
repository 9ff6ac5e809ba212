"""The certificates that are out: a file for each, until it expires. (`shared_leaves` has them in a cluster.)

From them one knows, whichever control plane has issued them and whether their holders are connected or not, who may
still lack a trust bundle, and when the last certificate of an authority is over.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from meshproxy.control.leaf import Leaf, is_name
from meshproxy.control.store import LEAVES, StoreError, read_record
from meshproxy.identity.private_files import replace_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

UNWRITTEN = 100_000
"""Certificates that a control plane remembers while its disk is full."""


class Sighting(NamedTuple):
    """What a sidecar says of its certificate."""

    leaf: Leaf
    is_proven: bool
    """It is the certificate of the connection."""


def noted(late: Iterable[Leaf], sightings: Iterable[Sighting], read: Callable[[str], Leaf | None]) -> Iterator[Leaf]:
    """The records that are new, or other ones, by what is to be noted (`Leaves.note`). Each has to be there before the
    next one is asked for.

    Args:
        late: certificates that could not be kept before. Of one, more may be known by now.
        sightings: what sidecars say.
        read: the record of a certificate; None if there is none.
    """
    for leaf in late:
        if read(leaf.name) is None:
            yield leaf
    for sighting in sightings:
        yield from _merged(sighting, read)


def _merged(sighting: Sighting, read: Callable[[str], Leaf | None]) -> Iterator[Leaf]:
    """Those that are other ones by what a sidecar says."""
    seen = sighting.leaf
    before = read(seen.name)
    if before is None:
        if sighting.is_proven:
            yield seen
        return
    if before.spiffe_id != seen.spiffe_id:
        return  # another workload's
    if before.replaces and (replaced := read(before.replaces)) is not None:
        yield msgspec.structs.replace(replaced, is_replaced=True)
    after = msgspec.structs.replace(before, roots=seen.roots, sidecar=seen.sidecar, replaces="", is_replaced=False)
    if after != before:  # a sidecar that connects again from another port costs no write
        yield msgspec.structs.replace(after, peer=seen.peer)


class Leaves(Protocol):
    """The records, wherever they are kept. Every call blocks, and raises StoreError."""

    def write(self, leaves: Iterable[Leaf]) -> None:
        """Keep certificates that are new."""

    def note(self, late: Iterable[Leaf], sightings: Iterable[Sighting]) -> None:
        """Keep certificates that were given out before they could be kept, and what sidecars say of themselves."""

    def valid(self, now: float) -> list[Leaf]:
        """Those that have not expired."""

    def prune(self, now: float) -> None:
        """Remove those that have expired."""


class FolderLeaves:
    """One file a certificate, replaced as a whole: several processes may share the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / LEAVES

    def write(self, leaves: Iterable[Leaf]) -> None:
        """Keep certificates, or what is known of them now. Raises StoreError."""
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            for leaf in leaves:
                replace_file(self.folder / leaf.name, msgspec.json.encode(leaf), 0o600)
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be written: {error.strerror}") from error

    def note(self, late: Iterable[Leaf], sightings: Iterable[Sighting]) -> None:
        """Write those that `noted` finds, one after the other. Raises StoreError."""
        self.write(noted(late, sightings, self.read))

    def remove(self, names: Iterable[str]) -> None:
        """Forget these. Raises StoreError."""
        try:
            for name in names:
                (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be pruned: {error.strerror}") from error

    def read(self, name: str) -> Leaf | None:
        """What is known of one. Raises StoreError."""
        return read_record(self.folder / name, Leaf, "the record of a certificate: remove it")

    def valid(self, now: float) -> list[Leaf]:
        """Those that have not expired. Raises StoreError."""
        found = [self.read(name) for name in sorted(self._names())]
        return [leaf for leaf in found if leaf is not None and leaf.is_valid(now)]

    def prune(self, now: float) -> None:
        """Remove those that have expired. Raises StoreError."""
        self.remove(name for name in self._names() if not Leaf(name, "", "").is_valid(now))

    def _names(self) -> Iterator[str]:
        try:
            yield from (path.name for path in self.folder.iterdir() if is_name(path.name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be read: {error.strerror}") from error


class Roll:
    """What one control plane tells of the certificates that it issues and sees in use.

    A new one is written before it is given out; those that are asked for meanwhile are written together. What sidecars
    say of themselves is written a moment later, since it only ever adds to what they have. While nothing can be written
    both are kept here, and certificates are issued.
    """

    def __init__(self, kept: Leaves, spare: FolderLeaves | None = None, now: float = 0.0) -> None:
        """Args:
            kept: the records.
            spare: where those are meanwhile that cannot be written, if they are not kept in a folder anyway: a control
                plane that is killed writes them when it starts again.
            now: seconds since the epoch.

        Raises:
            StoreError: the spare ones cannot be read.
        """
        self._kept = kept
        self._spare = spare
        self._new: dict[str, Leaf] = {}
        self._writing = asyncio.Lock()
        self._unwritten: dict[str, Leaf] = {leaf.name: leaf for leaf in spare.valid(now)} if spare is not None else {}
        self._sightings: dict[str, Sighting] = {}
        """By the certificate of the connection: what was said there last."""
        self._problem = ""
        self.failures = 0
        """Attempts to write that failed."""

    @property
    def is_written(self) -> bool:
        """Whether there is a record of every certificate that was given out."""
        return not self._unwritten

    async def issued(self, leaf: Leaf) -> None:
        """A certificate that is about to be given out."""
        self._new[leaf.name] = leaf
        writing = asyncio.ensure_future(self._write(leaf.name))
        # Others wait for the same write, which must not end with the call of whoever has begun it.
        await asyncio.shield(writing)

    async def _write(self, name: str) -> None:
        """All that are new, if this one still is."""
        async with self._writing:
            if name not in self._new:
                return  # written with the one before
            batch, self._new = self._new, {}
            try:
                await asyncio.to_thread(self._kept.write, batch.values())
            except StoreError as error:
                self._failed(error)
                self._unwritten |= batch
                while len(self._unwritten) > UNWRITTEN:
                    del self._unwritten[next(iter(self._unwritten))]
                if self._spare is not None:
                    try:
                        await asyncio.to_thread(self._spare.write, batch.values())
                    except StoreError as error:
                        self._failed(error)

    def seen(self, connection: str, leaf: Leaf) -> None:
        """A sidecar has this certificate and this bundle, it says.

        Args:
            connection: the name of the certificate with which it is connected.
            leaf: what it says. Of one that is not known, it is believed if that is the certificate of the connection.
        """
        self._sightings[connection] = Sighting(leaf, leaf.name == connection)

    async def flush(self) -> None:
        """Write what is not written yet."""
        if not self._sightings and not self._unwritten:
            return
        late = dict(self._unwritten)
        sightings, self._sightings = self._sightings, {}
        try:
            await asyncio.to_thread(self._note, late, sightings)
        except StoreError as error:
            self._failed(error)
            self._sightings = sightings | self._sightings
        else:
            self._problem = ""
            for name in late:
                self._unwritten.pop(name, None)

    def _note(self, late: dict[str, Leaf], sightings: dict[str, Sighting]) -> None:
        """Raises StoreError."""
        self._kept.note(late.values(), sightings.values())
        if self._spare is not None:
            self._spare.remove(late)

    def _failed(self, error: StoreError) -> None:
        self.failures += 1
        if str(error) != self._problem:
            logger.error(
                "what certificates are out cannot be written; trying again", extra={"fields": {"problem": str(error)}}
            )
        self._problem = str(error)
