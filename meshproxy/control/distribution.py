"""Documents on their way to the sidecars: one stream for each, and what each has."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from meshproxy.control.channel import decode
from meshproxy.control.lost import LostSidecars
from meshproxy.control.status import DocumentsEntry, SidecarEntry, SidecarState, moment, moment_or_none
from meshproxy.control_api import WATCH, SidecarReport
from meshproxy.identity.caller import Workload
from meshproxy.refusal import GrpcStatus
from meshproxy.transport.grpc_server import CallFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from meshproxy.control.documents import MeshDocuments
    from meshproxy.control.lost import Key
    from meshproxy.telemetry.metrics import Rows
    from meshproxy.transport.grpc_server import ServerCall

logger = logging.getLogger(__name__)

CHARACTERS = 256
"""Of each name that a sidecar reports."""


class Watcher(msgspec.Struct):
    """A sidecar that is connected."""

    spiffe_id: str
    peer: str
    since: float
    """When it connected, seconds since the epoch."""
    certificate_expires: float
    """Of the certificate that it connected with, unless it reports another."""
    certificate_issued: float = 0.0
    sidecar: str = ""
    host: str = ""
    software: str = ""
    version: str = ""
    """Of the documents that it uses."""
    sent: str = ""
    """The version that it was given last."""
    sent_at: float = 0.0
    """When."""
    refused: str = ""
    problems: tuple[str, ...] = ()

    def report(self, report: SidecarReport) -> None:
        """What it says about itself."""
        self.sidecar, self.host = report.sidecar[:CHARACTERS], report.host[:CHARACTERS]
        self.software, self.version = report.software[:CHARACTERS], report.version[:CHARACTERS]
        self.refused, self.problems = report.refused, report.problems
        self.certificate_issued = report.certificate_issued
        self.certificate_expires = report.certificate_expires or self.certificate_expires

    @property
    def key(self) -> Key:
        """What stays the same when it connects again."""
        return self.spiffe_id, self.sidecar, self.host or self.peer.rpartition(":")[0]

    def state(self, version: str) -> SidecarState:
        """What it has of this version."""
        if self.version == version:
            return SidecarState.IN_SYNC
        return SidecarState.REFUSED if self.refused == version else SidecarState.BEHIND

    def entry(self, version: str) -> SidecarEntry:
        """How it is shown while this version is in force."""
        return SidecarEntry(
            sidecar=self.sidecar,
            spiffe_id=self.spiffe_id,
            state=self.state(version),
            since=moment(self.since),
            sent_at=moment_or_none(self.sent_at),
            version=self.version,
            wanted=version,
            problems=self.problems,
            peer=self.peer,
            host=self.host,
            software=self.software,
            certificate_issued=moment_or_none(self.certificate_issued),
            certificate_expires=moment(self.certificate_expires),
        )


class DocumentService:
    """Gives each sidecar the documents in force.

    Attributes:
        watchers: the sidecars that are connected, in the order in which they came.
        lost: those that are gone.
    """

    def __init__(self, documents: MeshDocuments, clock: Callable[[], float] = time.time) -> None:
        self._documents = documents
        self._clock = clock
        self.watchers: dict[int, Watcher] = {}
        self.lost = LostSidecars()

    @property
    def methods(self) -> dict[bytes, Callable[[ServerCall], Awaitable[None]]]:
        """For `GrpcServer`."""
        return {WATCH: self.watch}

    async def watch(self, call: ServerCall) -> None:
        """`Documents/Watch`."""
        workload = call.info.peer
        if not isinstance(workload, Workload):
            raise CallFailed(GrpcStatus.UNAUTHENTICATED, "documents are for sidecars that show their certificate")
        first = await anext(call, None)
        if first is None:
            raise CallFailed(GrpcStatus.INVALID_ARGUMENT, "a sidecar says first what it has")
        now = self._clock()
        watcher = Watcher(workload.spiffe_id, call.info.remote, now, workload.not_after)
        watcher.report(decode(first, SidecarReport))
        self.watchers[id(watcher)] = watcher
        key = watcher.key
        self.lost.connected(key)
        giving = asyncio.create_task(self._give(call, watcher))
        try:
            # Whoever is still connected when its certificate expires comes again with the next one.
            async with asyncio.timeout(max(0.0, workload.not_after - now)):
                async for message in call:
                    watcher.report(decode(message, SidecarReport))
                    self._log(watcher)
        except TimeoutError:
            raise CallFailed(GrpcStatus.UNAVAILABLE, "the certificate of this connection has expired") from None
        finally:
            giving.cancel()
            del self.watchers[id(watcher)]
            self._ended(watcher, key, is_expected=call.has_ended)

    async def _give(self, call: ServerCall, watcher: Watcher) -> None:
        """Send each set that the sidecar does not have, until cancelled."""
        watcher.sent = watcher.version
        while True:
            documents = await self._documents.newer(watcher.sent)
            watcher.sent, watcher.sent_at = documents.version, self._clock()
            await call.send(msgspec.json.encode(documents))

    def _ended(self, watcher: Watcher, key: Key, *, is_expected: bool) -> None:
        if is_expected:
            self.lost.stopped(key)
            return
        now = self._clock()
        entry = watcher.entry(self._documents.current.version)
        gone = msgspec.structs.replace(entry, state=SidecarState.GONE, since=moment(now), problems=())
        self.lost.lost(key, gone, now)

    def _log(self, watcher: Watcher) -> None:
        if watcher.refused:
            fields = {"spiffe_id": watcher.spiffe_id, "version": watcher.refused, "problems": watcher.problems}
            logger.warning("a sidecar refused the documents", extra={"fields": fields})

    def describe(self) -> DocumentsEntry:
        """The documents in force."""
        return DocumentsEntry(version=self._documents.current.version, problems=self._documents.problems)

    def entries(self) -> Iterator[SidecarEntry]:
        """What every sidecar has: those that are connected, and those that are gone."""
        version = self._documents.current.version
        for watcher in self.watchers.values():
            yield watcher.entry(version)
        yield from self.lost.entries(self._clock())

    def count(self) -> Rows:
        """Sidecars by what they have, for `metric_table.SIDECARS`."""
        version = self._documents.current.version
        states = Counter(watcher.state(version) for watcher in self.watchers.values())
        states[SidecarState.GONE] = self.lost.count(self._clock())
        return [((state.value,), states[state]) for state in SidecarState]
