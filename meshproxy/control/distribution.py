"""Documents on their way to the sidecars: one stream for each, and what each has."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from meshproxy.control.channel import decode
from meshproxy.control_api import WATCH, SidecarReport
from meshproxy.identity.caller import Workload
from meshproxy.refusal import GrpcStatus
from meshproxy.transport.grpc_server import CallFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from meshproxy.control.documents import MeshDocuments
    from meshproxy.telemetry.metrics import Rows
    from meshproxy.transport.grpc_server import ServerCall

logger = logging.getLogger(__name__)


class WatcherState(Enum):
    """Whether a sidecar has the documents in force."""

    IN_SYNC = "in-sync"
    BEHIND = "behind"
    """It has not answered yet."""
    REFUSED = "refused"


class Watcher(msgspec.Struct):
    """A sidecar that is connected."""

    spiffe_id: str
    peer: str
    since: float
    """When it connected, seconds since the epoch."""
    certificate_expires: float
    sidecar: str = ""
    software: str = ""
    version: str = ""
    """Of the documents that it uses."""
    sent: str = ""
    """The version that it was given last."""
    refused: str = ""
    problems: tuple[str, ...] = ()

    def report(self, report: SidecarReport) -> None:
        """What it says about itself."""
        self.sidecar, self.software, self.version = report.sidecar, report.software, report.version
        self.refused, self.problems = report.refused, report.problems

    def state(self, version: str) -> WatcherState:
        """What it has of this version."""
        if self.version == version:
            return WatcherState.IN_SYNC
        return WatcherState.REFUSED if self.refused == version else WatcherState.BEHIND


class DocumentService:
    """Gives each sidecar the documents in force.

    Attributes:
        watchers: the sidecars that are connected, in the order in which they came.
    """

    def __init__(self, documents: MeshDocuments, clock: Callable[[], float] = time.time) -> None:
        self._documents = documents
        self._clock = clock
        self.watchers: dict[int, Watcher] = {}

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

    async def _give(self, call: ServerCall, watcher: Watcher) -> None:
        """Send each set that the sidecar does not have, until cancelled."""
        watcher.sent = watcher.version
        while True:
            documents = await self._documents.newer(watcher.sent)
            watcher.sent = documents.version
            await call.send(msgspec.json.encode(documents))

    def _log(self, watcher: Watcher) -> None:
        if watcher.refused:
            fields = {"spiffe_id": watcher.spiffe_id, "version": watcher.refused, "problems": watcher.problems}
            logger.warning("a sidecar refused the documents", extra={"fields": fields})

    def describe(self) -> dict[str, object]:
        """The documents in force, and what every connected sidecar has, for the page /sidecars."""
        version = self._documents.current.version
        return {
            "version": version,
            "problems": self._documents.problems,
            "sidecars": [
                {
                    "sidecar": watcher.sidecar,
                    "spiffe_id": watcher.spiffe_id,
                    "state": watcher.state(version).value,
                    "version": watcher.version,
                    "problems": watcher.problems,
                    "peer": watcher.peer,
                    "software": watcher.software,
                    "connected": _iso(watcher.since),
                    "certificate_expires": _iso(watcher.certificate_expires),
                }
                for watcher in self.watchers.values()
            ],
        }

    def count(self) -> Rows:
        """Connected sidecars by what they have, for `metric_table.SIDECARS`."""
        version = self._documents.current.version
        states = [watcher.state(version) for watcher in self.watchers.values()]
        return [((state.value,), states.count(state)) for state in WatcherState]


def _iso(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds")
