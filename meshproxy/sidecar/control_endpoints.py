"""Endpoints of Kubernetes Services from the control plane: one stream, on which it sends those of each Service that the
documents name whenever they change.

Each Service has a file in the folder, which discovery reads (`upstream.service`): that of this process, or of its
workers. A Service that the control plane does not know keeps the endpoints that it had, as a name that does not
resolve; one that has no endpoints has none.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from meshproxy.control_api import WATCH_ENDPOINTS, EndpointsRequest, ServiceEndpoints
from meshproxy.identity.private_files import replace_file
from meshproxy.sidecar.control_channel import read_message
from meshproxy.sidecar.control_stream import follow_stream
from meshproxy.sidecar.reconnect import keep_open
from meshproxy.upstream.service import FOLDER, endpoint_file, read_kept

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from meshproxy.config.schema import Documents
    from meshproxy.sidecar.control_channel import ControlChannel
    from meshproxy.transport.grpc_stream import Call

logger = logging.getLogger(__name__)

MESSAGE_BYTES = 4 << 20
"""Of the endpoints of one Service: a thousand with two ports take 70 KB, with 32 ports of long names 3 MB."""


def services_of(documents: Documents) -> set[str]:
    """The Services whose endpoints documents need."""
    return {server.spec.service.key for server in documents.servers if server.spec.service is not None}


class ControlEndpoints:
    """The endpoints of the Services that documents name.

    Args:
        folder: where they are kept.
        channel: to the control plane.
    """

    def __init__(self, folder: Path, channel: ControlChannel) -> None:
        self._folder = folder
        self._channel = channel
        self._wanted: set[str] = set()
        self._changed = asyncio.Event()
        """Others are wanted than were asked for."""
        self._received = 0
        """Messages, in all."""
        self._problems: dict[str, str] = {}
        """Of Services."""

    def prepare(self, documents: Documents) -> None:
        """These documents may come into use: their endpoints are needed, too."""
        self._want(self._wanted | services_of(documents))

    def adopt(self, documents: Documents) -> None:
        """These documents are in use."""
        self._want(services_of(documents))

    def _want(self, services: set[str]) -> None:
        if services != self._wanted:
            self._wanted = services
            self._changed.set()

    async def run(self) -> None:
        """Follow the control plane until cancelled, whatever happens to it."""
        await keep_open(self._follow, lambda: self._received, self._failed)

    async def _follow(self) -> str:
        """Take what comes on one stream, once something is needed. Returns why it has ended."""
        while not self._wanted:
            await self._changed.wait()
            self._changed.clear()
        return await follow_stream(
            self._channel, WATCH_ENDPOINTS, MESSAGE_BYTES, talk=self._ask, take=self._take, older=_note_older
        )

    async def _ask(self, call: Call) -> None:
        """Say what is needed, at once and whenever it changes."""
        while True:
            self._changed.clear()
            services = {service: self._kept_version(service) for service in sorted(self._wanted)}
            await call.send(msgspec.json.encode(EndpointsRequest(services)))
            self._forget(services)
            await self._changed.wait()

    def _kept_version(self, service: str) -> str:
        with suppress(ValueError):
            kept = read_kept(endpoint_file(self._folder, service))
            if kept is not None and not kept.problem:  # otherwise it may be over
                return kept.version
        return ""

    def _forget(self, services: Iterable[str]) -> None:
        """Remove the files of other Services."""
        needed = {endpoint_file(self._folder, service) for service in services}
        for path in (self._folder / FOLDER).glob("*.json"):
            if path not in needed:
                path.unlink(missing_ok=True)

    async def _take(self, message: bytes) -> None:
        """Raises ClientError or OSError."""
        received = read_message(message, ServiceEndpoints, "the endpoints are")
        if received.service in self._wanted:  # and not only before
            await asyncio.to_thread(self._keep, received)
            self._note(received.service, received.problem)
        self._received += 1

    def _keep(self, received: ServiceEndpoints) -> None:
        """Write what was received; if that is only that they are not known, beside those of before. Raises OSError."""
        path = endpoint_file(self._folder, received.service)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not received.version:
            with suppress(ValueError):
                if (kept := read_kept(path)) is not None:
                    received = msgspec.structs.replace(kept, problem=received.problem)
        replace_file(path, msgspec.json.encode(received), 0o600)

    def _note(self, service: str, problem: str) -> None:
        """Log a problem of a Service when it begins."""
        if problem and problem != self._problems.get(service):
            self._warn(f"endpoints of Service {service}", problem)
        self._problems[service] = problem

    def _failed(self, problem: str) -> None:
        self._warn("no endpoints from the control plane; trying again", problem)

    def _warn(self, what: str, problem: str) -> None:
        logger.warning(what, extra={"fields": {"control": self._channel.address, "problem": problem}})


def _note_older(problem: str) -> str:
    logger.warning("this control plane sends no endpoints of Services: it is older than we, or has no documents")
    return problem
