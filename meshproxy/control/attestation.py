"""Who asks for a certificate.

A workload that joins shows a join token, which the operator has made for one SPIFFE id (`meshproxy control
join-token`): it expires, and works once. In Kubernetes a pod shows the token of its service account instead
(`service_accounts.py`), which the kubelet replaces. From then on the workload shows the certificate that it has, over
mTLS, and gets another one for the same identity; a workload whose certificate has expired joins again.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import msgspec

from meshproxy.control import service_accounts
from meshproxy.control.authority import RequestRefused
from meshproxy.identity.caller import Workload
from meshproxy.transport.mesh_client import identify_client

if TYPE_CHECKING:
    import ssl

    from meshproxy.control.service_accounts import PodIdentity
    from meshproxy.control_api import IssueRequest

PREFIX = "mpj1-"
"""Lets people and secret scanners recognise a join token; the digit is the version of its form."""
TOKEN_BYTES = 32
TOKEN_CHARACTERS = 128
"""The longest text that is taken for a join token."""


class Shown(Workload, frozen=True):
    """A workload with the connection that it has shown its certificate on."""

    tls: ssl.SSLObject

    @property
    def certificate(self) -> bytes:
        """DER. TLS has it anyway: a copy for each of thousands of connections takes 0.5 KB."""
        return self.tls.getpeercert(binary_form=True) or b""


def identify_sidecar(tls: ssl.SSLObject | None) -> Shown | None:
    """The client of a connection; None without a certificate (`listener.Identify`). Raises PeerRejected."""
    workload = identify_client(tls)
    if tls is None or workload is None:
        return None
    return Shown(**msgspec.structs.asdict(workload), tls=tls)


class JoinToken(msgspec.Struct, frozen=True):
    """What a join token stands for. The token itself is not kept."""

    identity: str
    """The SPIFFE id of the workload that may use it."""
    expires: float
    """Seconds since the epoch."""


class TokenStore(Protocol):
    """Keeps join tokens by the SHA-256 of their text. Every call blocks, and raises StoreError."""

    def add_token(self, digest: str, token: JoinToken, now: float) -> None:
        """Keep a token until it is used, or expires."""

    def take_token(self, digest: str) -> JoinToken | None:
        """The token, which nobody can take again; None if there is none."""

    def waiting_tokens(self, now: float) -> list[JoinToken]:
        """The tokens that can still be used, the first to expire first."""


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


class PodTokens(Protocol):
    """Checks service-account tokens: `TokenReviewer`, `OfflineTokens`."""

    async def identify(self, token: str) -> PodIdentity:
        """The pod that shows the token. Raises RequestRefused."""


class Proof(Enum):
    """How it is known who asks."""

    CERTIFICATE = "certificate"
    JOIN_TOKEN = "join token"  # noqa: S105
    SERVICE_ACCOUNT_TOKEN = "service-account token"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Attested:
    """Who asks, and how that is known."""

    spiffe_id: str
    by: Proof
    pod: PodIdentity | None = None

    @property
    def paced_as(self) -> str:
        """Whose rate of certificates counts: replicas of one service account do not wait for each other."""
        return f"{self.spiffe_id} pod {self.pod.pod_uid}" if self.pod is not None else self.spiffe_id


class Attestation:
    """Tells who asks for a certificate."""

    def __init__(self, tokens: TokenStore, trust_domain: str, pods: PodTokens | None = None) -> None:
        """Nobody is asked yet.

        Args:
            tokens: the join tokens.
            trust_domain: of the identities of pods.
            pods: checks service-account tokens; None: they are refused.
        """
        self._tokens = tokens
        self._trust_domain = trust_domain
        self._pods = pods

    async def attest(self, request: IssueRequest, workload: Workload | None, now: float) -> Attested:
        """Who asks: a token, if the request shows one, decides, not the certificate of the connection.

        Args:
            request: with the token.
            workload: of the certificate that the connection was made with; None if without one.
            now: seconds since the epoch.

        Raises:
            RequestRefused: one of `REASONS`.
            StoreError: join tokens cannot be looked up.
        """
        if request.join_token and request.service_account_token:
            raise RequestRefused("unattested", "the request shows two tokens: show one")
        if request.service_account_token:
            if self._pods is None:
                raise RequestRefused(
                    "unattested",
                    "this control plane takes no service-account tokens: start it with --token-review or"
                    " --service-account-keys, or join with a join token",
                )
            pod = await self._pods.identify(request.service_account_token)
            return Attested(pod.spiffe_id(self._trust_domain), Proof.SERVICE_ACCOUNT_TOKEN, pod)
        if request.join_token:
            identity = await asyncio.to_thread(redeem_token, self._tokens, request.join_token, now)
            return Attested(identity, Proof.JOIN_TOKEN)
        if workload is None:
            raise RequestRefused("unattested", "the request shows neither a certificate nor a token")
        if workload.not_after <= now:
            raise RequestRefused("expired", "the certificate has expired: join again, with a token")
        return Attested(workload.spiffe_id, Proof.CERTIFICATE)


REASONS = service_accounts.REASONS | {"join-token", "unattested", "expired", "cluster"}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
