"""One GET of a small document from a configured URL, for key sets and discovery documents.

The response is bounded in time and size. Redirects are not followed: only the operator chooses addresses.
"""

from __future__ import annotations

import re
import ssl
from functools import cache
from pathlib import Path

import msgspec

from meshproxy.codec.events import Headers, RequestHead
from meshproxy.config.unreadable import tell_not_followed
from meshproxy.identity.certificates import CertificateError
from meshproxy.identity.named_context import read_authorities
from meshproxy.transport.channel import H1Channel, Target, own_connections
from meshproxy.transport.client import StatusError, exchange
from meshproxy.transport.connector import named_server

FETCH_SECONDS = 5.0
"""From the look-up of the name to the last byte."""
HEAD_BYTES = 16_384
TOKEN_BYTES = 16_384

JSON = b"application/json, */*;q=0.1"
KEY_SET = b"application/jwk-set+json, application/json;q=0.9, */*;q=0.1"
"""RFC 7517 section 8.5.2. The API server of Kubernetes has its key set in this type alone, and answers 406 to a request
that accepts only `application/json`."""
PEM = b"application/x-pem-file, */*;q=0.1"

_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
_URL = re.compile(r"(https?)://([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?(/[\x21-\x7e]*)?")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class FetchError(Exception):
    """A document cannot be fetched or used. The message says why, without quoting the document."""


class Url(msgspec.Struct, frozen=True):
    """An address to fetch from (RFC 3986), without user information and fragment."""

    is_tls: bool
    host: str
    """Without brackets."""
    port: int
    target: str

    @classmethod
    def read(cls, text: str) -> Url:
        """Raises FetchError unless it is https, or http to the loopback interface, which cannot be intercepted."""
        url = cls.read_any(text)
        if not url.is_tls and url.host not in LOOPBACK:
            raise FetchError("it would be fetched without TLS: use https")
        return url

    @classmethod
    def read_any(cls, text: str) -> Url:
        """The same with http to any address. Raises FetchError."""
        match = _URL.fullmatch(text)
        port = int(match[3] or (443 if match[1] == "https" else 80)) if match else 0
        if match is None or "#" in text or not 0 < port < 65_536:
            raise FetchError("it is not an https URL")
        return cls(match[1] == "https", match[2].strip("[]").lower(), port, match[4] or "/")

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{self._bracketed}:{self.port}"

    @property
    def authority(self) -> str:
        """For the `host` field."""
        return self._bracketed if self.port == (443 if self.is_tls else 80) else self.address

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


class Access(msgspec.Struct, frozen=True):
    """Whom to trust when a document is fetched, and what to identify with. The files are read for each fetch."""

    ca_file: Path | None = None
    """The authorities (PEM) to trust instead of the system's."""
    token_file: Path | None = None
    """A bearer token (RFC 6750 section 2.1), such as the pod's own, which the kubelet replaces before it expires."""
    is_inside_cluster: bool = False
    """Documents are fetched over http, also from other hosts: the operator trusts the network to them."""


async def fetch(url: Url, max_bytes: int, access: Access, accept: bytes = JSON, more: Headers = ()) -> bytes:
    """GET a document of at most `max_bytes`, within `FETCH_SECONDS`, on a new connection.

    Args:
        url: of the document.
        max_bytes: of its content.
        access: trust and credentials.
        accept: media types to ask for (RFC 9110 section 12.5.1).
        more: further header fields.

    Raises:
        FetchError: a file of `access` cannot be used, the token would be sent without TLS, or the document is
            compressed.
        ClientError: no complete response with status 200.
    """
    security = None
    if url.is_tls:
        context = trusting(access.ca_file)
        security = named_server(lambda: context)
    # Without the second, any coding may come (RFC 9110 section 12.5.3), and none is decoded here.
    headers: list[tuple[bytes, bytes]] = [(b"accept", accept), (b"accept-encoding", b"identity")]
    headers += [(b"user-agent", b"meshproxy"), *more]
    if access.token_file is not None:
        if not url.is_tls:
            raise FetchError("the token of bearerTokenFile is sent over https only")
        headers.append((b"authorization", b"Bearer " + _read_token(access.token_file)))
    head = RequestHead(0, b"GET", url.authority.encode(), url.target.encode(), tuple(headers), end=True)
    channel = H1Channel(own_connections(), Target(url.address, security), connect_timeout=FETCH_SECONDS)
    try:
        response = await exchange(
            channel, head, timeout=FETCH_SECONDS, max_body_bytes=max_bytes, max_head_bytes=HEAD_BYTES
        )
    finally:
        channel.abort()
    if response.status != 200:
        message = f"the response has status {response.status}{_hint(response.status, access)}"
        raise StatusError(message, response.status)
    if any(name == b"content-encoding" and value.lower() != b"identity" for name, value in response.headers):
        raise FetchError("the response is compressed (content-encoding), which was not asked for")
    return response.body


def _hint(status: int, access: Access) -> str:
    if status in _REDIRECTS:
        return ": redirects are not followed, give the URL it leads to"
    if status in (401, 403):
        what = "requires a token: set bearerTokenFile" if access.token_file is None else "refuses the token"
        return f": the server {what}"
    return ""


def _read_token(path: Path) -> bytes:
    """Raises FetchError. Its content never gets into a message."""
    tell_not_followed(path)
    try:
        with path.open("rb") as file:
            token = file.read(TOKEN_BYTES + 1).strip()
    except OSError as error:
        raise FetchError(f"the token in {path} cannot be read: {error.strerror}") from None
    if len(token) > TOKEN_BYTES or not _TOKEN.fullmatch(token):
        raise FetchError(f"{path} holds no bearer token")
    return token


_REDIRECTS = (301, 302, 303, 307, 308)


def trusting(ca_file: Path | None, *, is_own: bool = False) -> ssl.SSLContext:
    """The TLS context for a server that has a name, such as an issuer's. A CA file is short and may change: it is
    read again for each connection. `is_own`: nobody else has this one. Raises FetchError."""
    if ca_file is None:
        return _new_system_context() if is_own else _system_context()
    context = _bare_context()
    try:
        context.load_verify_locations(cadata=read_authorities(ca_file, "authorities file"))
    except CertificateError as error:
        raise FetchError(error.message) from None
    return context


def _new_system_context() -> ssl.SSLContext:
    context = _bare_context()
    context.load_default_certs()
    return context


_system_context = cache(_new_system_context)


def _bare_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies the chain and the name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
