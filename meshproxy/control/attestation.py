"""Who asks for a certificate.

A workload that joins shows a join token, which the operator has made for one SPIFFE id (`meshproxy control
join-token`): it expires, and works once. From then on the workload shows the certificate that it has, over mTLS, and
gets another one for the same identity; a workload whose certificate has expired needs a new join token.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Protocol

import msgspec

from meshproxy.control.authority import RequestRefused
from meshproxy.identity.caller import Workload
from meshproxy.transport.mesh_client import identify_client

if TYPE_CHECKING:
    import ssl

PREFIX = "mpj1-"
"""Lets people and secret scanners recognise a join token; the digit is the version of its form."""
TOKEN_BYTES = 32
TOKEN_CHARACTERS = 128
"""The longest text that is taken for a join token."""


@dataclass(frozen=True, slots=True)
class Shown(Workload):
    """A workload with the certificate that its connection was made with."""

    certificate: bytes
    """DER."""


def identify_sidecar(tls: ssl.SSLObject | None) -> Shown | None:
    """The client of a connection; None without a certificate (`listener.Identify`). Raises PeerRejected."""
    workload = identify_client(tls)
    if tls is None or workload is None:
        return None
    known = {field.name: getattr(workload, field.name) for field in fields(workload)}
    return Shown(**known, certificate=tls.getpeercert(binary_form=True) or b"")


class JoinToken(msgspec.Struct, frozen=True):
    """What a join token stands for. The token itself is not kept."""

    identity: str
    """The SPIFFE id of the workload that may use it."""
    expires: float
    """Seconds since the epoch."""


class TokenStore(Protocol):
    """Keeps join tokens by the SHA-256 of their text."""

    def add_token(self, digest: str, token: JoinToken, now: float) -> None: ...

    def take_token(self, digest: str) -> JoinToken | None:
        """The token, which nobody can take again; None if there is none."""


def make_token(store: TokenStore, identity: str, now: float, lifetime: float) -> str:
    """A new join token for a SPIFFE id, good for `lifetime` seconds."""
    text = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    store.add_token(_digest(text), JoinToken(identity, now + lifetime), now)
    return text


def redeem_token(store: TokenStore, text: str, now: float) -> str:
    """The SPIFFE id of whoever shows this token. It cannot be shown again.

    Raises:
        RequestRefused: `join-token`.
    """
    if len(text) > TOKEN_CHARACTERS or not text.startswith(PREFIX):
        raise RequestRefused("join-token", "this is not a join token: make one with `meshproxy control join-token`")
    token = store.take_token(_digest(text))
    if token is None:
        raise RequestRefused("join-token", "the join token is not known, or was used before: make another one")
    if token.expires <= now:
        raise RequestRefused("join-token", "the join token has expired: make another one")
    return token.identity


def attest(store: TokenStore, workload: Workload | None, token: str, now: float) -> str:
    """The SPIFFE id of whoever asks.

    Args:
        store: of join tokens.
        workload: of the certificate that the connection was made with; None if without one.
        token: what the request shows; empty if nothing.
        now: seconds since the epoch.

    Raises:
        RequestRefused: `join-token`, `unattested`, `expired`.
    """
    if token:
        return redeem_token(store, token, now)
    if workload is None:
        raise RequestRefused("unattested", "the request shows neither a certificate nor a join token")
    if workload.not_after <= now:
        raise RequestRefused("expired", "the certificate has expired: join with a new join token")
    return workload.spiffe_id


REASONS = frozenset({"join-token", "unattested", "expired"})


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
