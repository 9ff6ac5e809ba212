"""Documents from the control plane: one stream, on which it sends what has changed, and is told what became of it.

A set is taken into use together with the sidecar's own document. Then it is kept in the folder, from which a sidecar
starts while the control plane is away. One that is refused changes nothing.

It is sent what concerns it, parsed (`mesh_documents`), or by a control plane of an earlier version all of it as text,
which is loaded in a child process, from the folder. A sidecar of several workers has one stream, in its supervisor.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from meshproxy import __version__
from meshproxy.config.child import load_in_child, load_own_in_child
from meshproxy.config.codes import Code
from meshproxy.config.file_watch import AGAIN
from meshproxy.config.problems import ConfigError, Problem
from meshproxy.config.schema import Documents
from meshproxy.control_api import WATCH, DocumentSet, Scope, SidecarReport
from meshproxy.identity.private_files import replace_file
from meshproxy.sidecar.control_channel import read_message
from meshproxy.sidecar.control_stream import follow_stream
from meshproxy.sidecar.mesh_documents import MeshDocuments, NotAsSent
from meshproxy.sidecar.reconnect import keep_open
from meshproxy.transport.client import ClientError, ClientFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshproxy.config.file_watch import FileWatch
    from meshproxy.config.schema import Sidecar
    from meshproxy.sidecar.control_channel import ControlChannel
    from meshproxy.sidecar.control_endpoints import ControlEndpoints
    from meshproxy.transport.grpc_stream import Call

logger = logging.getLogger(__name__)

SET_BYTES = 32 << 20
REPORTED_PROBLEMS = 20
LEAVE_SECONDS = 1.0
PARSED = "documents.json"
"""The set in use, if it came parsed."""
TEXT = "mesh.yaml"
IN_USE, NEWEST = "documents", "documents-newest"
"""Folders of sets that came as text: of the one in use, and of the one that was received last, until it is in use or
refused."""
VERSION = "# version "
"""Begins the first line of a text that is kept."""


def scope_of(sidecar: Sidecar) -> Scope:
    """What concerns a sidecar."""
    spec = sidecar.spec
    return Scope(
        spec.inbound.server if spec.inbound is not None else "",
        spec.outbound is not None,
        (spec.outbound.server or "") if spec.outbound is not None else "",
        rollouts=True,
        models=True,
    )


class TextSet:
    """A set that came as text.

    Attributes:
        version: as the control plane named it.
    """

    def __init__(self, version: str) -> None:
        self.version = version


class ControlDocuments:
    """The sidecar's own document, and what the control plane sends (`DocumentSource`).

    Args:
        paths: of the sidecar's own document.
        own: that document.
        folder: where sets are kept.
        channel: to the control plane.
        watch: of the files of `paths`, from before `own` was read.
        endpoints: learns which documents are in use, and which may come into use.
    """

    def __init__(
        self,
        paths: Sequence[str],
        own: Sidecar,
        folder: Path,
        channel: ControlChannel,
        endpoints: ControlEndpoints,
        watch: FileWatch,
    ) -> None:
        self._paths = list(paths)
        self._own: Sidecar | None = own
        """None: its file has changed."""
        self._folder = folder
        self._in_use_text, self._newest_text = folder / IN_USE / TEXT, folder / NEWEST / TEXT
        self._channel = channel
        self._endpoints = endpoints
        self._report = SidecarReport(own.metadata.name, __version__, host=socket.gethostname(), scope=scope_of(own))
        self._has_news = asyncio.Event()
        """The report is another than the one that was sent."""
        self._changed: Callable[[], None] = lambda: None
        self._watch = watch
        self._in_use: TextSet | MeshDocuments | None = None
        self._newest: TextSet | MeshDocuments | None = None
        """What was received last: changes that are sent next are changes of it."""
        self._is_pending = False
        """The newest set is not yet decided on."""
        self._loaded: TextSet | MeshDocuments | None = None
        """What `load` was about last."""
        self._received = 0
        """Messages, in all."""
        self._disk = asyncio.Lock()
        """Held by whoever writes to the folder."""
        self._keeping: asyncio.Task[None] | None = None
        """Writes what was taken into use last."""

    async def first(self) -> Documents:
        """Documents to start with: those that were in use before, or else the first ones from the control plane that
        can be used. Waits for them; `run` must be running."""
        self._in_use = self._read_kept()
        if self._in_use is not None:
            try:
                documents = await self.load()
            except ConfigError as error:  # the sidecar's own document has changed
                self._refuse([str(problem) for problem in error.problems])
            else:
                self._endpoints.adopt(documents)
                self._tell(version=self._in_use.version)
                return documents
        logger.info("asking the control plane for documents", extra={"fields": {"control": self._channel.address}})
        changed = asyncio.Event()
        is_to_retry = False
        self.start(changed.set)
        try:
            while True:
                if self._is_pending or self._own is None:
                    try:
                        documents = await self.load()
                    except ConfigError as error:
                        is_to_retry = error.may_pass
                        self._refuse([str(problem) for problem in error.problems], is_to_retry=is_to_retry)
                    else:
                        self.applied(documents)
                        return documents
                await _wait_for(changed, is_to_retry=is_to_retry)
                is_to_retry = False
        finally:
            self.stop()

    # DocumentSource

    async def load(self) -> Documents:
        documents = await self._load()
        self._endpoints.prepare(documents)
        return documents

    async def _load(self) -> Documents:
        if self._watch.mark():
            self._own = None
        own = self._own if self._own is not None else await load_own_in_child(self._paths)
        if isinstance(own, Documents):
            return own  # it has no control plane any more, which needs a restart
        self._own = own
        if (scope := scope_of(own)) != self._report.scope:
            self._tell(scope=scope, version="")  # also a stream that begins later brings everything
        loaded = self._loaded = self._newest if self._is_pending else self._in_use
        if loaded is None:
            message = "the control plane has not sent documents that go with it yet"
            raise ConfigError((Problem("", 0, f"Sidecar/{own.metadata.name}", "", message, Code.MISSING_DOCUMENT),))
        if isinstance(loaded, MeshDocuments):
            content = msgspec.msgpack.encode(own) + loaded.version.encode()
            return loaded.together_with(own, hashlib.sha256(content).hexdigest())
        text = self._newest_text if self._is_pending else self._in_use_text
        return await load_in_child([*self._paths, str(text.parent)])

    def start(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._watch.start(self._own_changed)

    def _own_changed(self) -> None:
        self._own = None
        self._changed()

    def stop(self) -> None:
        self._watch.stop()
        self._changed = lambda: None

    def applied(self, documents: Documents) -> None:
        """The set that was loaded is in use: it is the one to start from, as soon as it is written."""
        self._endpoints.adopt(documents)
        loaded = self._decided()
        if loaded is None or loaded is self._in_use:
            return
        self._in_use = loaded
        self._report = msgspec.structs.replace(self._report, refused="", problems=())
        self._keeping = asyncio.get_running_loop().create_task(self._keep_in_use(loaded))

    async def _keep_in_use(self, loaded: TextSet | MeshDocuments) -> None:
        """Keep a set, and say that it is in use. In a thread: calls do not wait for the disk."""
        async with self._disk:
            if loaded is not self._in_use:
                return  # the newer one is about to be kept
            try:
                await asyncio.to_thread(self._keep, loaded)
            except OSError as error:
                logger.error("documents could not be kept", extra={"fields": {"problem": str(error)}})
        if loaded is self._in_use:
            self._tell(version=loaded.version)

    def refused(self, problems: Sequence[str], *, is_to_retry: bool = False) -> None:
        """The set that was loaded is not taken; the one before it stays."""
        loaded = self._loaded if is_to_retry else self._decided()
        if loaded is not None and loaded is not self._in_use:
            self._tell(refused=loaded.version, problems=tuple(problems[:REPORTED_PROBLEMS]))

    def _decided(self) -> TextSet | MeshDocuments | None:
        """What was loaded last, about which nothing is left to decide. A newer one may have come meanwhile."""
        if self._loaded is self._newest:
            self._is_pending = False
        return self._loaded

    def tell_certificate(self, issued: float, expires: float) -> None:
        """Report the certificate that this sidecar has; both in seconds since the epoch."""
        self._tell(certificate_issued=issued, certificate_expires=expires)

    async def apply_alone(self, share: Callable[[Documents], None]) -> None:
        """For a supervisor: check each set, keep it, and give it to the workers, until cancelled.

        Args:
            share: gives it to them. Raises OSError.
        """
        changed = asyncio.Event()
        is_to_retry = False
        self.start(changed.set)
        try:
            while True:
                await _wait_for(changed, is_to_retry=is_to_retry)
                is_to_retry = False
                try:
                    documents = await self.load()
                    share(documents)
                except ConfigError as error:
                    is_to_retry = error.may_pass
                    self._refuse([str(problem) for problem in error.problems], is_to_retry=is_to_retry)
                except OSError as error:
                    is_to_retry = True
                    self._refuse([f"the workers cannot be given documents: {error}"], is_to_retry=True)
                else:
                    self.applied(documents)
        finally:
            self.stop()

    def _refuse(self, problems: Sequence[str], *, is_to_retry: bool = False) -> None:
        if not is_to_retry or tuple(problems) != self._report.problems:  # of a retry it is known
            logger.error("documents rejected", extra={"fields": {"problems": problems}})
        self.refused(problems, is_to_retry=is_to_retry)

    # The folder

    def _read_kept(self) -> TextSet | MeshDocuments | None:
        """The set that was in use before."""
        with suppress(OSError):
            content = (self._folder / PARSED).read_bytes()
            try:
                return MeshDocuments.kept(content, self._folder)
            except NotAsSent as error:
                logger.warning("the documents in the folder cannot be used: %s", error)
        version = _version_in(self._in_use_text)
        return TextSet(version) if version else None

    def _keep(self, received: TextSet | MeshDocuments) -> None:
        """Keep a set in place of the one before. Raises OSError."""
        if isinstance(received, MeshDocuments):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._folder / PARSED, received.keep(), 0o600)
            self._in_use_text.unlink(missing_ok=True)
        else:
            if _version_in(self._newest_text) != received.version:
                return  # a newer one has come, which is about to be loaded
            self._in_use_text.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._newest_text.replace(self._in_use_text)
            (self._folder / PARSED).unlink(missing_ok=True)

    def _keep_newest(self, received: DocumentSet) -> None:
        """Keep a set that came as text: it is loaded from there. Raises OSError."""
        self._newest_text.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(self._newest_text, f"{VERSION}{received.version}\n{received.text}".encode(), 0o600)

    # The stream

    async def run(self) -> None:
        """Follow the control plane until cancelled, whatever happens to it."""
        try:
            await keep_open(self._follow, lambda: self._received, self._failed)
        finally:
            if self._keeping is not None:
                await self._keeping

    async def _follow(self) -> str:
        """Take what comes on one stream. Returns why it has ended."""
        return await follow_stream(
            self._channel, WATCH, SET_BYTES, talk=self._send_reports, take=self._take, leave=_take_leave
        )

    def _failed(self, problem: str) -> None:
        logger.warning(
            "no documents from the control plane; trying again",
            extra={"fields": {"control": self._channel.address, "problem": problem}},
        )

    async def _send_reports(self, call: Call) -> None:
        """Say what we have, at once and whenever it changes."""
        self._has_news.set()
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            await call.send(msgspec.json.encode(self._report))

    async def _take(self, message: bytes) -> None:
        """Raises ClientError or OSError."""
        received = read_message(message, DocumentSet, "the documents are")
        if received.text:
            async with self._disk:
                await asyncio.to_thread(self._keep_newest, received)
            self._newest = TextSet(received.version)
        else:
            self._newest = await self._add(received)
        self._is_pending = True
        self._received += 1
        self._changed()

    async def _add(self, received: DocumentSet) -> MeshDocuments:
        """The set after a message. Raises ClientError."""
        bases = [each for each in (self._newest, self._in_use) if isinstance(each, MeshDocuments)]
        base = next((each for each in bases if each.version == received.base), None)
        try:
            return await MeshDocuments.received(received, base, self._folder)
        except NotAsSent as error:
            self._tell(version="")  # the next stream begins with everything
            raise ClientError(ClientFailure.PROTOCOL, str(error)) from error

    def _tell(self, **changes: object) -> None:
        self._report = msgspec.structs.replace(self._report, **changes)
        self._has_news.set()


async def _take_leave(call: Call) -> None:
    """Tell a control plane that this sidecar stops, by which it knows it from one that is lost."""
    with suppress(ClientError, TimeoutError):
        async with asyncio.timeout(LEAVE_SECONDS):
            await call.done_sending()


async def _wait_for(changed: asyncio.Event, *, is_to_retry: bool) -> None:
    """Until there is a change, which is known then, or it is time to try again."""
    with suppress(TimeoutError):
        async with asyncio.timeout(AGAIN if is_to_retry else None):
            await changed.wait()
    changed.clear()


def _version_in(path: Path) -> str:
    """The version of a set that was kept; empty if there is none."""
    try:
        with path.open() as file:
            line = file.readline(256)
    except (OSError, ValueError):
        return ""
    return line.removeprefix(VERSION).strip() if line.startswith(VERSION) else ""
