"""The trust bundle from the control plane: one stream, on which it sends each new one, and is told which one we have.

So a bundle arrives long before the certificate is renewed: when the mesh gets a new root, everybody trusts it before
anybody shows a certificate of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from meshproxy import __version__
from meshproxy.control_api import ROOTS, Roots, RootsReport, leaf_name, roots_digest
from meshproxy.identity.certificates import CertificateError, own_identity
from meshproxy.identity.peer import read_peer
from meshproxy.identity.pem import read_certificates
from meshproxy.identity.private_files import replace_or_overwrite
from meshproxy.sidecar.control_channel import read_message
from meshproxy.sidecar.control_stream import follow_stream
from meshproxy.sidecar.reconnect import keep_open

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.sidecar.control_channel import ControlChannel
    from meshproxy.transport.grpc_stream import Call

logger = logging.getLogger(__name__)

ROOTS_BYTES = 1 << 20


class ControlRoots:
    """Keeps the trust bundle in the folder as the control plane has it.

    Args:
        name: of the sidecar, for people.
        channel: to the control plane.
        clock: seconds since the epoch.
    """

    def __init__(self, name: str, channel: ControlChannel, clock: Callable[[], float] = time.time) -> None:
        self._name = name
        self._channel = channel
        self._clock = clock
        self._has_news = asyncio.Event()
        """Certificate or bundle may be other ones than was said last."""
        self._received = 0

    def tell(self) -> None:
        """There is another certificate in the folder."""
        self._has_news.set()

    async def run(self) -> None:
        """Follow the control plane until cancelled, whatever happens to it."""
        await keep_open(self._follow, lambda: self._received, self._failed)

    async def _follow(self) -> str:
        """Take what comes on one stream. Returns why it has ended."""
        return await follow_stream(
            self._channel, ROOTS, ROOTS_BYTES, talk=self._send_reports, take=self._take, older=self._note_older
        )

    def _note_older(self, problem: str) -> str:
        logger.info("this control plane sends the trust bundle with each certificate only: it is older than we")
        return ""

    def _failed(self, problem: str) -> None:
        logger.warning(
            "no trust bundle from the control plane; trying again",
            extra={"fields": {"control": self._channel.address, "problem": problem}},
        )

    async def _send_reports(self, call: Call) -> None:
        """Say what we have, at once and whenever it changes."""
        self._has_news.set()
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            if (report := self._report()) is not None:
                await call.send(msgspec.json.encode(report))

    def _report(self) -> RootsReport | None:
        """What is in the folder; None if that has expired."""
        credentials = self._channel.credentials()
        if credentials is None:
            return None
        leaf = read_certificates(credentials.certificate_pem)[0]
        name = leaf_name(leaf, read_peer(leaf, self._channel.trust_domain, self._clock()).not_after)
        return RootsReport(self._name, name, roots_digest(credentials.bundle_pem), __version__)

    async def _take(self, message: bytes) -> None:
        """Put a bundle in the folder, unless our own certificate would not be good with it.

        Raises:
            ClientError: it cannot be read.
            OSError: it cannot be written.
        """
        roots = read_message(message, Roots, "the trust bundle is").roots.encode()
        self._received += 1
        async with self._channel.writing:
            credentials = self._channel.credentials()
            if credentials is None:
                return  # with the next certificate comes a bundle
            try:
                own_identity(replace(credentials, bundle_pem=roots), self._channel.trust_domain, self._clock())
            except CertificateError as error:
                logger.error(
                    "trust bundle rejected; keeping the previous one",
                    extra={"fields": {"reason": error.reason, "problem": error.message}},
                )
                return
            await asyncio.to_thread(replace_or_overwrite, self._channel.files.trust_bundle, roots, 0o644)
        logger.info("trust bundle received", extra={"fields": {"trust_bundle": roots_digest(roots)}})
        self._has_news.set()
