"""A login that is under way, in a cookie of the browser that began it: nobody fills a table here by beginning logins.

The cookie is signed (HMAC-SHA-256) with a key of this process, so its content is what was put there. It binds the
answer of the issuer to this browser (RFC 6749 section 10.12, RFC 9700 section 4.7): state, nonce and the verifier of
PKCE (RFC 7636) are new for each login.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

import msgspec

LIFE = 600.0
"""Seconds that a person has for the pages of the issuer."""
COOKIE_CHARACTERS = 4_096


class Pending(msgspec.Struct, frozen=True):
    """What a login began with."""

    state: str
    nonce: str
    verifier: str
    path: str
    """Of the page that was asked for."""
    until: float
    """Seconds since the epoch."""

    @classmethod
    def new(cls, path: str, now: float) -> Pending:
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        return cls(state, nonce, verifier, path, now + LIFE)

    @property
    def challenge(self) -> str:
        """The code challenge, method S256 (RFC 7636 section 4.2)."""
        return base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()


class Seal:
    """Signs and verifies cookies."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def close(self, pending: Pending) -> str:
        """As a cookie."""
        body = base64.urlsafe_b64encode(msgspec.json.encode(pending)).rstrip(b"=")
        return f"{body.decode()}.{self._tag(body)}"

    def open(self, cookie: str, now: float) -> Pending | None:
        """None: it is not of this process, or too old."""
        body, _, tag = cookie.partition(".")
        if len(cookie) > COOKIE_CHARACTERS or not cookie.isascii():
            return None
        if not hmac.compare_digest(tag, self._tag(body.encode())):
            return None
        pending = msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=Pending)
        return pending if now < pending.until else None

    def _tag(self, body: bytes) -> str:
        return hmac.new(self._key, body, hashlib.sha256).hexdigest()
