"""Documents from the control plane: one stream, on which it sends each new set, and is told what became of it.

A set is taken into use together with the sidecar's own document. Then it is kept in the folder, from which a sidecar
starts while the control plane is away. One that is refused changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from meshproxy import __version__
from meshproxy.config.child import load_in_child
from meshproxy.config.file_watch import FileWatch
from meshproxy.config.files import files_of
from meshproxy.config.problems import ConfigError
from meshproxy.control_api import WATCH, DocumentSet, SidecarReport
from meshproxy.identity.certificates import CertificateError
from meshproxy.identity.private_files import replace_file
from meshproxy.sidecar.reconnect import keep_open
from meshproxy.transport.client import ClientError, ClientFailure
from meshproxy.transport.grpc_stream import open_call

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshproxy.config.schema import Documents
    from meshproxy.sidecar.control_channel import ControlChannel
    from meshproxy.transport.grpc_stream import Call

logger = logging.getLogger(__name__)

SET_BYTES = 32 << 20
REPORTED_PROBLEMS = 20
LEAVE_SECONDS = 1.0
FILE = "mesh.yaml"
IN_USE, NEWEST = "documents", "documents-newest"
"""Folders: of the set in use, and of the one that was received last, until it is in use or refused."""
VERSION = "# version "
"""Begins the first line of a set that is kept."""


class ControlDocuments:
    """The sidecar's own document, and what the control plane sends (`DocumentSource`).

    Args:
        paths: of the sidecar's own document.
        name: of the sidecar, for people.
        folder: where sets are kept.
        channel: to the control plane.
    """

    def __init__(self, paths: Sequence[str], name: str, folder: Path, channel: ControlChannel) -> None:
        self._paths = list(paths)
        self._in_use, self._newest = folder / IN_USE / FILE, folder / NEWEST / FILE
        self._channel = channel
        self._report = SidecarReport(name, __version__, host=socket.gethostname())
        self._has_news = asyncio.Event()
        """The report is another than the one that was sent."""
        self._has_set = asyncio.Event()
        """There is a set that could be taken into use."""
        self._changed: Callable[[], None] = lambda: None
        self._watch = FileWatch(lambda: files_of(self._paths))
        self._pending = ""
        """The version of the set that was received and not yet decided on."""
        self._received = 0
        """Sets, in all."""
        self._problem = ""

    async def first(self) -> Documents:
        """Documents to start with: those that were in use before, or else the first ones from the control plane that
        can be used. Waits for them; `run` must be running."""
        if version := _version_in(self._in_use):
            try:
                documents = await load_in_child([*self._paths, str(self.kept)])
            except ConfigError as error:  # the sidecar's own document has changed
                self._refuse(error)
            else:
                self._tell(version=version)
                return documents
        logger.info("asking the control plane for documents", extra={"fields": {"control": self._channel.address}})
        while True:
            await self._has_set.wait()
            self._has_set.clear()
            try:
                documents = await self.load()
            except ConfigError as error:
                self._refuse(error)
            else:
                self.applied(documents)
                return documents

    @property
    def kept(self) -> Path:
        """The folder of the set in use."""
        return self._in_use.parent

    # DocumentSource

    async def load(self) -> Documents:
        self._watch.mark()
        newest = self._newest if self._pending else self._in_use
        return await load_in_child([*self._paths, str(newest.parent)])

    def start(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._watch.start(changed)

    def stop(self) -> None:
        self._watch.stop()
        self._changed = lambda: None

    def applied(self, documents: Documents) -> None:
        """The newest set is in use: it is the one to start from."""
        version, self._pending = self._pending, ""
        if not version:
            return
        try:
            self._in_use.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._newest.replace(self._in_use)
        except OSError as error:
            logger.error("documents could not be kept", extra={"fields": {"problem": str(error)}})
        self._tell(version=version, refused="", problems=())

    def refused(self, problems: Sequence[str]) -> None:
        """The newest set is not taken; the one before it stays."""
        version, self._pending = self._pending, ""
        if version:
            self._tell(refused=version, problems=tuple(problems[:REPORTED_PROBLEMS]))

    def tell_certificate(self, issued: float, expires: float) -> None:
        """Report the certificate that this sidecar has; both in seconds since the epoch."""
        self._tell(certificate_issued=issued, certificate_expires=expires)

    async def apply_alone(self) -> None:
        """For a supervisor, whose workers watch the folder: check each set and keep it, until cancelled."""
        changed = asyncio.Event()
        self.start(changed.set)
        try:
            while True:
                await changed.wait()
                changed.clear()
                try:
                    self.applied(await self.load())
                except ConfigError as error:
                    self._refuse(error)
        finally:
            self.stop()

    def _refuse(self, error: ConfigError) -> None:
        problems = [str(problem) for problem in error.problems]
        logger.error("documents rejected", extra={"fields": {"version": self._pending, "problems": problems}})
        self.refused(problems)

    # The stream

    async def run(self) -> None:
        """Follow the control plane until cancelled, whatever happens to it."""
        await keep_open(self._follow, lambda: self._received, self._failed)

    async def _follow(self) -> str:
        """Take what comes on one stream. Returns why it has ended."""
        try:
            async with (
                self._channel.streams() as channel,
                await open_call(channel, WATCH, max_message_bytes=SET_BYTES) as call,
            ):
                reporting = asyncio.create_task(self._send_reports(call))
                try:
                    async for message in call:
                        self._take(message)
                except asyncio.CancelledError:
                    await _take_leave(call)
                    raise
                finally:
                    reporting.cancel()
            return "it ended the stream"
        except (ClientError, CertificateError, OSError) as error:
            return str(error)

    def _failed(self, problem: str) -> None:
        if problem != self._problem:
            logger.warning(
                "no documents from the control plane; trying again",
                extra={"fields": {"control": self._channel.address, "problem": problem}},
            )
        self._problem = problem

    async def _send_reports(self, call: Call) -> None:
        """Say what we have, at once and whenever it changes."""
        self._has_news.set()
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            await call.send(msgspec.json.encode(self._report))

    def _take(self, message: bytes) -> None:
        """Raises ClientError or OSError."""
        try:
            received = msgspec.json.decode(message, type=DocumentSet)
        except msgspec.DecodeError as error:
            raise ClientError(ClientFailure.PROTOCOL, f"the documents are not understood: {error}") from error
        self._newest.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(self._newest, f"{VERSION}{received.version}\n{received.text}".encode(), 0o600)
        self._pending = received.version
        self._received += 1
        self._problem = ""
        self._has_set.set()
        self._changed()

    def _tell(self, **changes: object) -> None:
        self._report = msgspec.structs.replace(self._report, **changes)
        self._has_news.set()


async def _take_leave(call: Call) -> None:
    """Tell a control plane that this sidecar stops, by which it knows it from one that is lost."""
    with suppress(ClientError, TimeoutError):
        async with asyncio.timeout(LEAVE_SECONDS):
            await call.done_sending()


def _version_in(path: Path) -> str:
    """The version of a set that was kept; empty if there is none."""
    try:
        with path.open() as file:
            line = file.readline(256)
    except (OSError, ValueError):
        return ""
    return line.removeprefix(VERSION).strip() if line.startswith(VERSION) else ""
