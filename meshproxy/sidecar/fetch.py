"""Fetching the keys of issuers: one small GET, OpenID discovery, and the task that keeps a key set fresh.

Whom we ask comes from configuration and nothing else; what comes back is bounded in time and size; redirects are not
followed, so that nobody but the operator chooses the address. The one address that an issuer chooses itself is the
`jwks_uri` of its discovery document: it must be https, and a bare IP address only if it is the issuer's own. There is
no allow-list of networks: an issuer inside the cluster has a private address like any other.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from meshproxy.codec.events import Data, Failed, ResponseHead
from meshproxy.codec.h1.connection import H1Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from meshproxy.identity.jose import load_object
from meshproxy.identity.jwk import KEY_SET_BYTES
from meshproxy.identity.keys import IssuerKeys

FETCH_SECONDS = 5.0
"""From the look-up of the name to the last byte."""
FILE_REFRESH = 10.0
"""Seconds after which a key set on disk is read again."""
DISCOVERY = "/.well-known/openid-configuration"

Source = Callable[[], Awaitable[bytes]]
"""Gets a JWK set; any exception means that it could not, FetchError with words of its own."""

_LIMITS = Limits(header_bytes=16_384, body_bytes=KEY_SET_BYTES)
_HEADERS = ((b"accept", b"application/json"), (b"user-agent", b"meshproxy"))
_URL = re.compile(r"(https?)://([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?(/[\x21-\x7e]*)?")
_IP = re.compile(r"[0-9.]+|.*:.*")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class FetchError(Exception):
    """What came back cannot be used. The text says why, without quoting it."""


@dataclass(frozen=True, slots=True)
class Url:
    """An address to fetch from (RFC 3986); without user and fragment."""

    is_tls: bool
    host: str
    """Without brackets."""
    port: int
    target: str

    @classmethod
    def read(cls, text: str) -> Url:
        """Raises FetchError unless it is https, or http to this host itself, where nobody can listen in."""
        match = _URL.fullmatch(text)
        port = int(match[3] or (443 if match[1] == "https" else 80)) if match else 0
        if match is None or "#" in text or not 0 < port < 65_536:
            raise FetchError("it is not an https URL")
        host = match[2].strip("[]").lower()
        if match[1] == "http" and host not in _LOOPBACK:
            raise FetchError("it would be fetched in the clear: it must be https")
        return cls(match[1] == "https", host, port, match[4] or "/")

    @property
    def authority(self) -> str:
        """For the `host` field."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"


async def fetch(url: Url, ca_file: Path | None = None) -> bytes:
    """GET a document of at most 256 KiB, within five seconds, without following redirects.

    Args:
        url: from where.
        ca_file: the authorities (PEM) to trust instead of the system's.

    Raises:
        FetchError: the answer is not a 200 with a whole body of that size, or `ca_file` is not usable.
        OSError: no connection, or no TLS with the named host.
        TimeoutError: it took too long.
    """
    context = _context(ca_file) if url.is_tls else None
    async with asyncio.timeout(FETCH_SECONDS):
        reader, writer = await asyncio.open_connection(
            url.host, url.port, ssl=context, server_hostname=url.host if context else None
        )
        try:
            return await exchange(reader, writer, url.target.encode(), url.authority.encode(), _LIMITS)
        finally:
            writer.transport.abort()


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: bytes, authority: bytes, limits: Limits
) -> bytes:
    """GET on a connection that stands, and is of no use afterwards. Raises FetchError unless a whole 200 comes."""
    connection = H1Connection(Role.CLIENT, limits)
    connection.close_after_message()
    writer.write(connection.send_request(b"GET", target, authority, _HEADERS, True))
    await writer.drain()
    body: list[bytes] = []
    is_final = False
    while True:
        data = await reader.read(65_536)
        for event in connection.receive(data) if data else connection.receive_eof():
            if isinstance(event, Failed):
                raise FetchError(f"the answer broke off or is not HTTP: {event.reason}")
            if isinstance(event, ResponseHead):
                is_final = event.status >= 200
                if is_final and event.status != 200:
                    raise FetchError(f"the answer has status {event.status}" + _hint(event.status))
            if isinstance(event, Data):
                body.append(event.data)
            if is_final and getattr(event, "end", True):
                return b"".join(body)
        if not data:
            raise FetchError("the connection was closed without an answer")


def _hint(status: int) -> str:
    return ": redirects are not followed, give the URL it leads to" if status in (301, 302, 303, 307, 308) else ""


def _context(ca_file: Path | None) -> ssl.SSLContext:
    """TLS towards an issuer. A file is read again each time, it is short and may change; the system's are long."""
    if ca_file is None:
        return _system_context()
    context = _bare_context()
    try:
        context.load_verify_locations(ca_file)
    except (ssl.SSLError, OSError) as error:
        raise FetchError(f"the authorities in {ca_file} cannot be loaded: {error.strerror or error.args[-1]}") from None
    return context


@cache
def _system_context() -> ssl.SSLContext:
    context = _bare_context()
    context.load_default_certs()
    return context


def _bare_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies the chain and the name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def from_url(url: str, ca_file: Path | None = None) -> Source:
    """A key set behind a URL. Raises FetchError at once if the URL is not allowed."""
    parsed = Url.read(url)
    return lambda: fetch(parsed, ca_file)


def from_file(path: Path) -> Source:
    """A key set on disk. Reading it is quicker than handing it to a thread."""

    async def read() -> bytes:
        with path.open("rb") as file:
            return file.read(KEY_SET_BYTES + 1)

    return read


def from_discovery(issuer: str, ca_file: Path | None = None) -> Source:
    """The key set that an issuer's OpenID configuration names (OpenID Connect Discovery 1.0, section 4).

    The document is read before each fetch, as an issuer may move its keys. Raises FetchError at once if the URL of the
    issuer is not allowed.
    """
    ours = Url.read(issuer.rstrip("/") + DISCOVERY)

    async def discover() -> bytes:
        try:
            document = load_object(await fetch(ours, ca_file))
        except ValueError as error:
            raise FetchError(f"the OpenID configuration cannot be read: {error}") from None
        # Section 4.3: character for character, or one tenant of a host could speak for another.
        if document.get("issuer") != issuer:
            raise FetchError("the OpenID configuration is of another issuer")
        jwks_uri = document.get("jwks_uri")
        if not isinstance(jwks_uri, str):
            raise FetchError("the OpenID configuration has no jwks_uri")
        try:
            theirs = Url.read(jwks_uri)
        except FetchError as error:
            raise FetchError(f"the jwks_uri of the OpenID configuration: {error}") from None
        if theirs.host != ours.host and (not theirs.is_tls or theirs.host in _LOOPBACK or _IP.fullmatch(theirs.host)):
            raise FetchError("the jwks_uri of the OpenID configuration leads to an address, not to a host by its name")
        return await fetch(theirs, ca_file)

    return discover


class KeyRefresher:
    """Keeps the keys of one issuer fresh. One fetch at a time, whoever asks for it."""

    def __init__(
        self,
        keys: IssuerKeys,
        source: Source,
        *,
        report: Callable[[IssuerKeys], None] = lambda keys: None,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Nothing is fetched yet.

        Args:
            keys: what to keep fresh.
            source: where from.
            report: told after every attempt, for logs and metrics.
            clock: seconds since the epoch.
            jitter: 0 to 1.
        """
        self.keys = keys
        self._source = source
        self._report = report
        self._clock = clock
        self._jitter = jitter
        self._flight: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Refresh whenever it is due, until cancelled."""
        try:
            while True:
                wait = self.keys.wait(self._clock())
                if wait > 0:
                    await asyncio.sleep(wait)
                else:
                    await self._join(is_forced=False)
        finally:
            if self._flight is not None:
                self._flight.cancel()

    async def refresh(self, *, is_forced: bool = True) -> None:
        """Return when one attempt is over, however it went. Joins one that is under way.

        Args:
            is_forced: an unknown key asks for it, out of turn; after that none may for a while.
        """
        await self._join(is_forced=is_forced)

    async def _join(self, *, is_forced: bool) -> None:
        # Also for an attempt under way: whoever waited for it must not be sent to ask for another.
        self.keys.begin(self._clock(), is_forced=is_forced)
        if self._flight is None:
            self._flight = asyncio.create_task(self._attempt())
        # Not awaited itself: a client that goes away must not take the attempt from the others.
        await asyncio.wait((self._flight,))

    async def _attempt(self) -> None:
        try:
            document = await self._source()
        except asyncio.CancelledError:
            self.keys.abandon()
            raise
        except Exception as error:
            # Whatever it is: if this task died of it, the keys would rot unseen.
            self.keys.fail(_problem(error), self._clock(), self._jitter())
        else:
            self.keys.take(document, self._clock(), self._jitter())
        finally:
            self._flight = None
        self._report(self.keys)


def _problem(error: Exception) -> str:
    """One line for the log; errors of the system say little by themselves."""
    if isinstance(error, FetchError):
        return str(error)
    if isinstance(error, TimeoutError):
        return f"no answer within {FETCH_SECONDS:.0f} seconds"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the issuer's certificate does not verify: {error.verify_message}"
    return f"cannot be read or reached: {getattr(error, 'strerror', None) or type(error).__name__}"
