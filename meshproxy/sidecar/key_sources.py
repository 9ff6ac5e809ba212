"""Where the keys of an issuer come from: a URL, a file, or the issuer's OpenID discovery document.

The one address that an issuer chooses itself is the `jwks_uri` of its discovery document: it must be https, and a bare
IP address only if it is the issuer's own. There is no allow-list of networks: an issuer inside the cluster has a
private address like any other.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from meshproxy.identity.jose import load_object
from meshproxy.identity.jwk import KEY_SET_BYTES
from meshproxy.sidecar.http_get import LOOPBACK, FetchError, Url, fetch

FILE_REFRESH = 10.0
"""Seconds after which a key set on disk is read again."""
DISCOVERY = "/.well-known/openid-configuration"

Source = Callable[[], Awaitable[bytes]]
"""Gets a JWK set. Raises FetchError, ClientError or OSError."""

_IP = re.compile(r"[0-9.]+|.*:.*")


def from_url(url: str, ca_file: Path | None = None) -> Source:
    """A key set behind a URL. Raises FetchError at once if the URL is not allowed."""
    parsed = Url.read(url)
    return lambda: fetch(parsed, KEY_SET_BYTES, ca_file)


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
            document = load_object(await fetch(ours, KEY_SET_BYTES, ca_file))
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
        if theirs.host != ours.host and (not theirs.is_tls or theirs.host in LOOPBACK or _IP.fullmatch(theirs.host)):
            raise FetchError(
                "the jwks_uri of the OpenID configuration must name a host, not an IP address or localhost"
            )
        return await fetch(theirs, KEY_SET_BYTES, ca_file)

    return discover
