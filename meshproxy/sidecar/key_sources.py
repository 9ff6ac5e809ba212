"""Where the keys of an issuer come from: a URL, a file, the issuer's OpenID discovery document, or, one by one, the
place where AWS has those of its load balancers.

The one address that an issuer chooses itself is the `jwks_uri` of its discovery document. On another host than the
issuer's it must be https, and may be an IP address only where the operator has named the authority of that server
(`caFile`): then nothing is sent before the server has proven to be one of its own. The API server of Kubernetes names
its own address there. Never from elsewhere to this host, and never to a link-local address (metadata services). There
is no allow-list of networks: an issuer inside the cluster has a private address like any other.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable
from enum import Enum
from pathlib import Path

from meshproxy.config.files import open_regular
from meshproxy.config.unreadable import tell_not_followed
from meshproxy.identity.jose import BOM, load_object
from meshproxy.identity.jwk import KEY_SET_BYTES
from meshproxy.identity.keys import IssuerKeys
from meshproxy.identity.load_balancer import KEY_BYTES, read_key
from meshproxy.sidecar.http_get import JSON, KEY_SET, LOOPBACK, PEM, Access, FetchError, Url, fetch
from meshproxy.transport.client import ClientError, StatusError

FILE_REFRESH = 10.0
"""Seconds after which a key set on disk is read again."""
DISCOVERY = "/.well-known/openid-configuration"

Source = Callable[[], Awaitable[bytes]]
"""Gets a JWK set. Raises FetchError, ClientError or OSError."""

# Also what a resolver may take for an address: 127.1, 0x7f000001 (WHATWG URL section 3.5, "ends in a number").
_IP = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?|.*:.*")


def from_url(url: str, access: Access) -> Source:
    """A key set behind a URL. Raises FetchError at once if the URL is not allowed."""
    parsed = _readable(url, access)
    return lambda: fetch(parsed, KEY_SET_BYTES, access, KEY_SET)


def from_file(path: Path) -> Source:
    """A key set on disk. Reading it is quicker than handing it to a thread."""

    async def read() -> bytes:
        tell_not_followed(path)
        with open_regular(path) as file:
            return file.read(KEY_SET_BYTES + 1)

    return read


def from_load_balancer(url: str, keys: IssuerKeys, access: Access) -> Source:
    """The keys of an AWS load balancer: each is a PEM below `url`, by its id (`identity/load_balancer.py`).

    A key that is not there is left out. Any other failure is one of all, and those in use stay in use, unless it is of
    a key that is not known while others can be had: strangers name keys, too. Raises FetchError at once if the URL is
    not allowed.
    """
    _readable(url, access)

    async def read(kid: str) -> dict[str, str] | None:
        try:
            return read_key(await fetch(_readable(f"{url.rstrip('/')}/{kid}", access), KEY_BYTES, access, PEM), kid)
        except StatusError as error:
            if error.http_status in (403, 404):  # S3 answers 403 for what is not there
                return None
            raise
        except ValueError as error:
            raise FetchError(f"the key {kid} is {error}") from None

    async def collect() -> bytes:
        known = {key.kid for key in keys.keys.keys} if keys.keys is not None else set()
        wanted = keys.wanted_ids
        found = await asyncio.gather(*map(read, wanted), return_exceptions=True)
        failed = {kid: each for kid, each in zip(wanted, found, strict=True) if isinstance(each, BaseException)}
        for kid, error in failed.items():
            if kid in known or len(failed) == len(wanted):
                raise error
        return json.dumps({"keys": [key for key in found if isinstance(key, dict)]}).encode()

    return collect


def from_discovery(issuer: str, access: Access) -> Source:
    """The key set that an issuer's OpenID configuration names (OpenID Connect Discovery 1.0, section 4).

    The document is read before each fetch, as an issuer may move its keys. Raises FetchError at once if the URL of the
    issuer is not allowed.
    """
    ours = _readable(issuer.rstrip("/") + DISCOVERY, access)

    async def discover() -> bytes:
        try:
            document = load_object((await _get("the OpenID configuration", ours, access, JSON)).removeprefix(BOM))
        except ValueError as error:
            raise FetchError(f"the OpenID configuration cannot be read: {error}") from None
        # Section 4.3: character for character, or one tenant of a host could speak for another.
        named = document.get("issuer")
        if named != issuer:
            is_close = isinstance(named, str) and named.rstrip("/") == issuer.rstrip("/")
            hint = ": only the slash at the end differs, write issuer as it is there" if is_close else ""
            raise FetchError(f"the OpenID configuration is of another issuer{hint}")
        jwks_uri = document.get("jwks_uri")
        if not isinstance(jwks_uri, str):
            raise FetchError("the OpenID configuration has no jwks_uri")
        try:
            theirs = _readable(jwks_uri, access)
        except FetchError as error:
            raise FetchError(f"the jwks_uri of the OpenID configuration: {error}") from None
        if problem := _why_not(theirs, ours, access):
            raise FetchError(f"the jwks_uri of the OpenID configuration {problem}")
        return await _get("the keys at the jwks_uri of the OpenID configuration", theirs, access, KEY_SET)

    return discover


async def _get(what: str, url: Url, access: Access, accept: bytes) -> bytes:
    """One of two documents: which it was is said where it cannot be fetched."""
    try:
        return await fetch(url, KEY_SET_BYTES, access, accept)
    except (ClientError, FetchError) as error:
        is_none = accept is JSON and isinstance(error, StatusError) and error.http_status == 404
        hint = ": an issuer that has none needs keys.url" if is_none else ""
        raise FetchError(f"{what}: {error}{hint}") from error


def _readable(text: str, access: Access) -> Url:
    """Raises FetchError."""
    url = Url.read_any(text) if access.is_inside_cluster else Url.read(text)
    if access.token_file is not None and not url.is_tls:
        raise FetchError("the token of bearerTokenFile is sent over https only")
    return url


def _why_not(theirs: Url, ours: Url, access: Access) -> str | None:
    """Why a `jwks_uri` is not followed; None if it is."""
    if theirs.host == ours.host:
        return None
    if not theirs.is_tls:
        return "must be https"
    kind, own_kind = _kind(theirs.host), _kind(ours.host)
    if kind is Kind.FORBIDDEN or (kind is Kind.LOOPBACK and own_kind is not Kind.LOOPBACK):
        return "leads to this host or to a link-local address"
    if kind is not Kind.NAME and access.ca_file is None:
        return (
            "is at an IP address: set caFile to the authority of that server, or keys.url to where the keys are fetched"
        )
    return None


class Kind(Enum):
    """What the host of a URL is."""

    NAME = "a name"
    ADDRESS = "an IP address"
    LOOPBACK = "this host"
    FORBIDDEN = "an address that no issuer has, or something that may be read as an address"


def _kind(host: str) -> Kind:
    if host.rstrip(".") in LOOPBACK or host.rstrip(".").endswith(".localhost"):
        return Kind.LOOPBACK
    if not _IP.fullmatch(host):
        return Kind.NAME
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return Kind.FORBIDDEN
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return Kind.LOOPBACK
    is_usable = not (address.is_link_local or address.is_unspecified or address.is_multicast or address.is_reserved)
    return Kind.ADDRESS if is_usable else Kind.FORBIDDEN
