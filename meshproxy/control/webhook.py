"""The injector's port: the API server asks about new pods there, over TLS with a certificate of the authority."""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from meshproxy.config.file_watch import FileWatch
from meshproxy.control.http_port import HttpPort
from meshproxy.identity.certificates import TLS_1_2_CIPHERS, CertificateError, Credentials, load_pair, read_file
from meshproxy.injection.admission import BYTES, Outcome, Verdict, decide, too_large
from meshproxy.transport.byte_budget import ByteBudget

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meshproxy.config.values import Address
    from meshproxy.injection.settings import Settings

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0
"""For reviews that are being answered when it stops."""
CONNECTIONS = 1_000
"""At once. The API server has one for each review that it waits for."""
READ_SECONDS = 10.0
"""For the body of a review."""
READ_BYTES = 64 << 20
"""Of all reviews that are being read; beyond that the one that began first is cut."""


@dataclass(frozen=True, slots=True)
class Injector:
    """What an operator chooses about it."""

    listen: Address
    names: tuple[str, ...]
    """Host names by which the API server calls it."""
    sidecars: Callable[[str], Settings]
    """The settings of sidecars, given the trust bundle in PEM."""
    configuration: str | None = None
    """The MutatingWebhookConfiguration whose `caBundle` is kept; None: somebody else does."""
    files: tuple[Path, Path] | None = None
    """Certificate and key of somebody else (cert-manager), read again when they change. None: the authority's."""


class Webhook:
    """The server.

    Args:
        injector: of the operator.
        count: is told what became of each review.
        exceeded: is told the name of a limit that a client has exceeded.

    Attributes:
        connections: how many it holds at most, before it listens.
        address: where it listens; empty before it does.
    """

    def __init__(self, injector: Injector, count: Callable[[Outcome], None], exceeded: Callable[[str], None]) -> None:
        self._injector = injector
        self._count = count
        self._exceeded = exceeded
        self.connections = CONNECTIONS
        self._context: ssl.SSLContext | None = None
        self._settings: Settings | None = None
        self._credentials: Credentials | None = None
        self._watch = FileWatch(lambda: injector.files or ())
        self._problem = ""
        """Why the files are not in use."""
        self._runner = web.AppRunner(self._application(), shutdown_timeout=CLOSE_SECONDS)
        self._port: HttpPort | None = None
        self._bodies = ByteBudget()
        self.address = ""

    def present(self, credentials: Credentials) -> None:
        """Show this certificate, or that of the files, to those that connect from now on, and give its trust bundle to
        new sidecars.

        Raises:
            CertificateError: it cannot be used.
        """
        self._watch.mark()
        try:
            context = _context(self._pair(credentials))
        except CertificateError:
            self._watch.again()
            raise
        self._credentials = credentials
        self._settings = self._injector.sidecars(credentials.bundle_pem.decode())
        self._context = context

    def _pair(self, credentials: Credentials) -> Credentials:
        """Raises CertificateError."""
        if self._injector.files is None:
            return credentials
        certificate, key = self._injector.files
        return Credentials(read_file(certificate, "certificate")[0], read_file(key, "key")[0], b"")

    async def start(self) -> None:
        """Listen; `present` has been called. Raises OSError."""
        assert self._context is not None
        listen = self._injector.listen
        first = self._context
        first.sni_callback = self._choose
        await self._runner.setup()
        self._port = HttpPort("webhook", self._runner, listen, self.connections, self._exceeded, first)
        self._port.start()
        self.address = self._port.address
        self._watch.start(self._present_again)

    async def close(self) -> None:
        """Answer what has been asked, and stop."""
        self._watch.stop()
        if self._port is not None:
            self._port.stop()
        await self._runner.cleanup()

    def _present_again(self) -> None:
        """The files have changed, or may be of use now."""
        assert self._credentials is not None
        try:
            self.present(self._credentials)
        except CertificateError as error:
            if str(error) != self._problem:
                logger.error(
                    "the webhook's certificate is rejected; keeping the previous one",
                    extra={"fields": {"problem": str(error)}},
                )
            self._problem = str(error)
        else:
            self._problem = ""
            logger.info("the webhook's certificate is new")

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, first: ssl.SSLContext) -> None:
        """Each handshake gets the newest context. OpenSSL asks also where the client names no host."""
        connection.context = self._context or first

    async def _review(self, request: web.Request) -> web.Response:
        assert self._settings is not None
        try:
            verdict = decide(await self._read(request), self._settings)
        except web.HTTPRequestEntityTooLarge:
            verdict = too_large()
        self._tell(verdict)
        return web.Response(body=verdict.body, content_type="application/json")

    async def _read(self, request: web.Request) -> bytes:
        """The body.

        Raises:
            HTTPRequestEntityTooLarge, HTTPRequestTimeout
            HTTPBadRequest: the client has left, or was cut; nobody reads it.
        """
        body = bytearray()
        reading = _Reading(request, self._exceeded)
        try:
            async with asyncio.timeout(READ_SECONDS):
                async for data in request.content.iter_any():
                    body += data
                    if len(body) > BYTES:
                        raise web.HTTPRequestEntityTooLarge(BYTES, len(body))
                    self._bodies.take(reading, len(data), READ_BYTES)
        except TimeoutError:
            self._exceeded("review_time")
            raise web.HTTPRequestTimeout(text=f"the body did not come within {READ_SECONDS:g} s\n") from None
        except ConnectionError:
            raise web.HTTPBadRequest from None  # not an error with a traceback for each that leaves
        else:
            return bytes(body)
        finally:
            self._bodies.release(reading)
            body.clear()  # aiohttp keeps the error of a client that has left, and so this frame

    def _tell(self, verdict: Verdict) -> None:
        self._count(verdict.outcome)
        is_wrong = verdict.outcome in (Outcome.REFUSED, Outcome.UNREADABLE)
        logger.log(
            logging.WARNING if is_wrong else logging.INFO,
            "pod reviewed",
            extra={"fields": {"outcome": str(verdict.outcome), **verdict.fields}},
        )

    def _application(self) -> web.Application:
        application = web.Application()
        # Whatever the path: the text of a 404 would not reach the user.
        application.add_routes([web.post("/{path:.*}", self._review)])
        return application


class _Reading:
    """`byte_budget.Evictable`: a review whose body comes."""

    def __init__(self, request: web.Request, exceeded: Callable[[str], None]) -> None:
        self._request = request
        self._exceeded = exceeded

    def evicted(self) -> None:
        self._exceeded("review_bytes")
        if self._request.transport is not None:
            self._request.transport.abort()


def _context(credentials: Credentials) -> ssl.SSLContext:
    """Raises CertificateError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_ciphers(TLS_1_2_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    load_pair(context, credentials)
    return context
