"""The authority in force, which an operator may rotate at any time: `meshproxy ca rotate` writes into the store."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from meshproxy.control.store import StoreError
from meshproxy.control_api import roots_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.control.authority import Authority
    from meshproxy.control.store import FolderStore

logger = logging.getLogger(__name__)

PERIOD = 0.5
"""Seconds between two looks at the store."""


class CurrentAuthority:
    """What the store has. Looked at before each certificate, so that none is signed by a root that has just been
    replaced, and every `PERIOD` for those who have the bundle.

    Attributes:
        changed: called with each new authority.
        problem: why what the store has now is not in force; empty if it is.
    """

    def __init__(self, store: FolderStore, trust_domain: str, now: float) -> None:
        """Made at the first start where there is none. Raises StoreError."""
        self._store = store
        self._stamp: object = store.stamp()  # before the read: a change meanwhile is noticed
        self._authority = store.authority(trust_domain, now)
        self.problem = ""
        self.changed: Callable[[Authority], None] = lambda authority: None

    def __call__(self) -> Authority:
        """The authority in force; the last good one while the store has none."""
        stamp = self._store.stamp()
        if stamp == self._stamp:
            self.problem = ""  # also of files that were away, and are back as they were
        else:
            try:
                self._take(self._read())
            except StoreError as error:
                if str(error) != self.problem:
                    fields = {"problem": str(error)}
                    logger.error("authority rejected; keeping the previous one", extra={"fields": fields})
                self.problem = str(error)
            else:
                self._stamp, self.problem = stamp, ""
        return self._authority

    def _read(self) -> Authority:
        """Raises StoreError. Never makes one: a folder that has lost its authority is a mistake."""
        found = self._store.find_authority()
        if found is None or found.trust_domain != self._authority.trust_domain:
            raise StoreError(
                f"{self._store.folder} has no authority of {self._authority.trust_domain} any more: put its files back"
                " before the next start, which would be refused, or make a new root that no sidecar trusts"
            )
        return found

    def _take(self, found: Authority) -> None:
        before = self._authority
        if (found.id, found.bundle_pem, found.chain_pem) == (before.id, before.bundle_pem, before.chain_pem):
            return
        self._authority = found
        fields = {"signs": found.id, "trust_bundle": roots_digest(found.bundle_pem)}
        logger.info("authority changed", extra={"fields": fields})
        self.changed(found)

    async def follow(self) -> None:
        """Look at the store until cancelled."""
        while True:
            await asyncio.sleep(PERIOD)
            self()
