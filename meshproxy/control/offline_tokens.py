"""Verifies service-account tokens with the keys of the cluster, without asking it.

For a control plane outside of the cluster, or one that must not depend on it. A token of a pod that was deleted is
taken until it expires: give tokens short lives.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshproxy.config.file_watch import state_of
from meshproxy.config.unreadable import tell_not_followed
from meshproxy.control.authority import RequestRefused
from meshproxy.control.service_accounts import AUDIENCE, LEEWAY, has_expired, judge_claims, read_claims
from meshproxy.identity.jwk import ALGORITHMS, KEY_SET_BYTES
from meshproxy.identity.keys import IssuerKeys
from meshproxy.identity.tokens import Issuer, TokenVerifier
from meshproxy.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meshproxy.control.service_accounts import PodIdentity

logger = logging.getLogger(__name__)


class KeysUnusable(Exception):
    """The file with the cluster's keys cannot be used. The text says why and what to do."""


@dataclass(frozen=True, slots=True)
class ClusterKeys:
    """How the tokens of a cluster are known."""

    issuer: str
    """The `iss` of its tokens: `--service-account-issuer` of its API server."""
    path: Path
    """Its key set, as `/openid/v1/jwks` of the API server gives it; read again when it changes."""


class OfflineTokens:
    """Identifies pods by their tokens (`attestation.PodTokens`)."""

    def __init__(self, cluster: ClusterKeys, clock: Callable[[], float] = time.time) -> None:
        """Raises KeysUnusable."""
        self._path = cluster.path
        self._clock = clock
        self._keys = IssuerKeys("kubernetes", ALGORITHMS, refresh=None)
        self._verifier = TokenVerifier(
            [Issuer("kubernetes", cluster.issuer, frozenset({AUDIENCE}), self._keys, leeway=LEEWAY)]
        )
        self._seen: tuple[int, ...] | None = None
        self._load()
        if self._keys.problem is not None:
            raise KeysUnusable(
                f"{cluster.path}: {self._keys.problem}; write it with `kubectl get --raw /openid/v1/jwks`"
            )

    async def identify(self, token: str) -> PodIdentity:
        """The pod that shows the token.

        Raises:
            RequestRefused: one of `service_accounts.REASONS`.
        """
        claims = read_claims(token)
        self._load()
        now = self._clock()
        try:
            verified = self._verifier.verify(b"Bearer " + token.encode(), now)
        except Refusal as refusal:
            if has_expired(claims, now - LEEWAY):
                raise RequestRefused("token-expired", "the token has expired: read its file anew") from None
            raise RequestRefused("token-unauthenticated", refusal.message) from None
        return judge_claims(verified.claims)

    def _load(self) -> None:
        """Read the keys if the file is another one than before; if it cannot be used, those in use stay."""
        try:
            seen = state_of(self._path)
            if seen == self._seen:
                return
            self._seen = seen
            tell_not_followed(self._path)
            with self._path.open("rb") as file:
                document = file.read(KEY_SET_BYTES + 1)
        except OSError as error:
            before = self._keys.problem
            self._keys.fail(f"cannot be read: {error.strerror}", self._clock(), 0.0)
            if self._keys.problem == before:
                return
        else:
            self._keys.take(document, self._clock(), 0.0)
        if self._keys.problem is not None and self._keys.has_keys:
            fields = {"file": str(self._path), "problem": self._keys.problem}
            logger.error("the cluster's keys cannot be read again; those before stay in use", extra={"fields": fields})
