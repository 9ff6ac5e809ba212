"""The checks of both relays: the token (verified once, then remembered), the workload, the model's path."""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt


@dataclass(frozen=True, slots=True)
class Settings:
    """What a relay is started with, as JSON in a file."""

    port: int
    upstream: int
    certificate: str
    key: str
    bundle: str
    jwks: str
    issuer: str
    audience: str
    group: str
    workload: str
    models: list[str]

    @classmethod
    def read(cls) -> Settings:
        return cls(**json.loads(Path(sys.argv[1]).read_text()))


class Checks:
    """Decides which calls are allowed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        keys = jwt.PyJWKSet.from_json(Path(settings.jwks).read_text()).keys
        self._keys = {key.key_id: key for key in keys}
        self._verified: dict[str, dict[str, Any]] = {}

    def claims(self, authorization: str | None) -> dict[str, Any] | None:
        """The claims of a bearer token; None if it is not valid."""
        if authorization is None or not authorization.startswith("Bearer "):
            return None
        token = authorization[7:]
        claims = self._verified.get(token)
        if claims is not None and claims["exp"] > time.time():
            return claims
        try:
            key = self._keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(token, key, ["RS256"], audience=self._settings.audience, issuer=self._settings.issuer)
        except (jwt.InvalidTokenError, KeyError):
            return None
        if len(self._verified) > 1_000:
            self._verified.clear()
        self._verified[token] = claims
        return claims

    def may(self, claims: dict[str, Any], workload: str | None) -> bool:
        return workload == self._settings.workload and self._settings.group in claims.get("groups", ())


def access_log() -> logging.Logger:
    """A logger that writes JSON lines as they are given."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("access")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
    return logger
