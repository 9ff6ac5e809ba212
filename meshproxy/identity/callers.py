"""Callers known by pre-signed requests: who they are, for how long, and which requests may be sent to STS now.

What STS said is remembered for as long as the request lives, and a refusal too: the same bytes are sent once. How many
are sent is bounded, because strangers can make as many as they like. Pure: `sidecar/caller_identities.py` sends them.
"""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import Any

import msgspec

from meshproxy.identity.caller import Token
from meshproxy.identity.presigned import NotPresigned, Presigned, read_answer, read_presigned
from meshproxy.refusal import Reason, Refusal

ISSUER = "aws:caller-identity"
"""What `Token.issuer` says of such callers. The name of an issuer in a document cannot have a colon."""
REMEMBERED = 2_048
"""Callers, and as many refusals: those of strangers must not displace a caller, who would have to be asked about again.
"""
AT_ONCE = 16
"""Requests that STS is asked about together."""
BURST, PER_SECOND = 64, 16.0
"""Requests that may follow each other at once, and how many more each second. STS itself allows 600 a second for each
account that asks (AWS, "STS quotas")."""
FAILED_SECONDS = 1.0
"""Seconds for which a request that STS did not answer is not sent again."""
TOKEN_BYTES = 2_500
"""What a token of such a caller takes in memory, with three claims and the key that it is kept by."""


class IdentityWanted(Exception):
    """STS must be asked who signed this request."""

    def __init__(self, digest: bytes, request: Presigned) -> None:
        super().__init__()
        self.digest = digest
        self.request = request


class Settings(msgspec.Struct, frozen=True):
    """What `aws.callerIdentity` of the MeshConfig says."""

    hosts: frozenset[str]
    port: int
    audience: str


class KnownCallers:
    """What STS said of the requests that were sent."""

    __slots__ = ("_at", "_granted", "_known", "_level", "_refused", "_settings", "_waiting")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[bytes, tuple[Token | str, float]] = {}
        """By digest: the caller, and until when that is so."""
        self._refused: dict[bytes, tuple[Token | str, float]] = {}
        """The same for those that are refused, with why."""
        self._granted: dict[bytes, None] = {}
        """May be sent, and `begin` was not called yet."""
        self._waiting: dict[bytes, Presigned] = {}
        self._level = float(BURST)
        self._at: float | None = None

    def find(self, credential: bytes, now: float) -> tuple[Token, float]:
        """The caller, and the moment from which the credential is refused.

        Args:
            credential: with the prefix of such credentials.
            now: seconds since the epoch.

        Raises:
            Refusal: UNAUTHENTICATED, or KEYS_UNAVAILABLE while STS cannot be asked.
            IdentityWanted: nobody knows; call `begin`, ask STS, and `take` or `fail`.
        """
        digest = hashlib.sha256(credential).digest()
        found = self._known.get(digest) or self._refused.get(digest)
        if found is not None and now < found[1]:
            caller, until = found
            if isinstance(caller, Token):
                return caller, until
            reason = Reason.KEYS_UNAVAILABLE if caller is UNANSWERED else Reason.UNAUTHENTICATED
            raise _refused(caller, reason)
        settings = self._settings
        try:
            request = read_presigned(credential, settings.hosts, settings.port, settings.audience, now)
        except NotPresigned as error:
            raise _refused(f"The pre-signed request is refused: {error}.", Reason.UNAUTHENTICATED) from None
        # A client that has a new one begins with many calls in one read: they are sent as one.
        if digest not in self._waiting and digest not in self._granted:
            if len(self._waiting) >= AT_ONCE or not self._may_send(now):
                raise _refused("Too many pre-signed requests wait for AWS STS: retry.", Reason.KEYS_UNAVAILABLE)
            self._granted[digest] = None
            _bound(self._granted)
        raise IdentityWanted(digest, request)

    def is_ours(self, request: Presigned) -> bool:
        """Whether it may be sent by these settings: a reload may have changed them since `find`."""
        settings = self._settings
        return (
            request.host in settings.hosts and request.port == settings.port and request.audience == settings.audience
        )

    def _may_send(self, now: float) -> bool:
        if self._at is not None:  # a clock that is set back refills nothing
            self._level = min(float(BURST), self._level + max(0.0, now - self._at) * PER_SECOND)
        self._at = now
        if self._level < 1:
            return False
        self._level -= 1
        return True

    def begin(self, wanted: IdentityWanted) -> None:
        """The request is sent now; `take` or `fail` must follow."""
        self._granted.pop(wanted.digest, None)
        self._waiting[wanted.digest] = wanted.request

    def take(self, digest: bytes, content: bytes | None, now: float) -> None:
        """STS has answered: with a document, or (None) that it does not accept the request."""
        request = self._waiting.pop(digest)
        if content is None:
            self._keep(digest, "AWS STS does not accept the pre-signed request.", request.expires, now)
            return
        try:
            identity = read_answer(content)
        except NotPresigned as error:
            self._keep(digest, f"The pre-signed request is refused: {error}.", now + FAILED_SECONDS, now)
            return
        claims = {"arn": identity.arn, "account": identity.account, "user_id": identity.user_id}
        token = Token(ISSUER, identity.arn, MappingProxyType(claims), request.expires, identity.role, TOKEN_BYTES)
        self._keep(digest, token, request.expires, now)

    def fail(self, digest: bytes, now: float) -> None:
        """STS did not answer."""
        del self._waiting[digest]
        self._keep(digest, UNANSWERED, now + FAILED_SECONDS, now)

    def _keep(self, digest: bytes, found: Token | str, until: float, now: float) -> None:
        self._known.pop(digest, None)
        self._refused.pop(digest, None)
        kept = self._known if isinstance(found, Token) else self._refused
        kept[digest] = found, until
        _bound(kept)


def _bound(kept: dict[bytes, Any]) -> None:
    """Forget the oldest."""
    while len(kept) > REMEMBERED:
        del kept[next(iter(kept))]


UNANSWERED = "AWS STS did not answer: retry."


def _refused(why: str, reason: Reason) -> Refusal:
    if reason is Reason.KEYS_UNAVAILABLE:
        return Refusal(reason, why, retry_after=1)
    return Refusal(reason, why, challenge=f'Bearer error="invalid_token", error_description="{why}"')
