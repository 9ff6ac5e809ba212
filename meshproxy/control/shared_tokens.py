"""The join tokens of control planes that share no folder: in a Secret beside that of their authority.

It has an entry for each token, named after the SHA-256 of its text. No token can be made of that; but whoever may write
an entry makes workloads of any identity join, so it is a Secret and not a ConfigMap.
"""

from __future__ import annotations

import base64
import threading
from typing import TYPE_CHECKING

import msgspec

from meshproxy.control.attestation import JoinToken
from meshproxy.control.store import StoreError, until_unchanged
from meshproxy.installation.rights import join_tokens_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshproxy.control.shared_objects import SharedObjects, Version

TOKENS_KEPT = 1_000
"""Join tokens that may wait to be used: a Secret takes 1 MiB, and a token up to 1 KB of it for the usual identities."""


class SharedTokens:
    """`attestation.TokenStore` in a cluster.

    Args:
        objects: of the cluster.
        secret: the name of the Secret with the authority.
    """

    def __init__(self, objects: SharedObjects, secret: str) -> None:
        self._objects = objects
        self._name = join_tokens_name(secret)
        self._lock = threading.Lock()
        """Held by one call at a time: those of this process need not race each other for a version."""

    def add_token(self, digest: str, token: JoinToken, now: float) -> None:
        """Keep a token until it is used, or expires; those that have expired are removed. Raises StoreError."""
        with self._lock:
            until_unchanged(lambda: self._add(digest, token, now))

    def _add(self, digest: str, token: JoinToken, now: float) -> None:
        """Raises Changed, and StoreError."""
        entries, version = self._read()
        expired = [name for name, text in entries.items() if _decode(text).expires <= now]
        waiting = len(entries) - len(expired)
        if waiting >= TOKENS_KEPT:
            raise StoreError(f"{waiting} join tokens wait to be used already: wait until some expire")
        self._write({**dict.fromkeys(expired), digest: _encode(token)}, version)

    def take_token(self, digest: str) -> JoinToken | None:
        """The token; None: there is none. Of several control planes to which it is shown at once, one writes on the
        version that it has read, and the others find none then. A token is spent if that is not answered. Raises
        StoreError."""
        if digest not in self._read()[0]:
            return None  # whoever guesses keeps nobody waiting
        with self._lock:
            return until_unchanged(lambda: self._take(digest))

    def _take(self, digest: str) -> JoinToken | None:
        """Raises Changed, and StoreError."""
        entries, version = self._read()
        text = entries.get(digest)
        if text is None:
            return None
        self._write({digest: None}, version)
        return _decode(text)

    def waiting_tokens(self, now: float) -> list[JoinToken]:
        """The tokens that can still be used, the first to expire first. Raises StoreError."""
        found = (_decode(text) for text in self._read()[0].values())
        return sorted((token for token in found if token.expires > now), key=lambda token: token.expires)

    def _read(self) -> tuple[dict[str, str], Version]:
        """Raises StoreError."""
        return self._objects.read("secrets", self._name)

    def _write(self, changes: Mapping[str, str | None], version: Version) -> None:
        """Raises Changed, and StoreError."""
        self._objects.write("secrets", self._name, changes, version)


def _encode(token: JoinToken) -> str:
    return base64.b64encode(msgspec.json.encode(token)).decode()


def _decode(text: str) -> JoinToken:
    """An entry; one that is none has expired."""
    try:
        return msgspec.json.decode(base64.b64decode(text), type=JoinToken)
    except ValueError:  # DecodeError is one
        return JoinToken("", 0.0)
