"""Whatever this control plane gives out is recorded, where whoever rotates the root of the mesh reads it.

One that shares its authority with others says besides by which authority it signs (`presence`), and issues nothing that
nobody could know of.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from meshproxy.control.authority import RequestRefused
from meshproxy.control.root_rotation import in_force
from meshproxy.control.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.control.authority import Authority
    from meshproxy.control.leaves import Leaves, Roll
    from meshproxy.control.presence import Presence

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 0.5
"""Until what a sidecar says of its certificate is written."""
PRUNE_SECONDS = 60.0
"""Between two looks for records of certificates that have expired."""


class Records:
    """Of one control plane.

    Args:
        authority: gives the one in force.
        leaves: the certificates that are out.
        roll: what this control plane knows of them.
        presence: what it says to those with which it shares its authority; None: there are none.
        read_at: for `presence`: when it had read the authority in force, seconds since the epoch.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        authority: Callable[[], Authority],
        leaves: Leaves,
        roll: Roll,
        presence: Presence | None = None,
        read_at: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._authority = authority
        self._leaves = leaves
        self._roll = roll
        self._presence = presence
        self._read_at = read_at
        self._clock = clock

    def signer(self) -> Authority:
        """Who signs certificates. Raises RequestRefused while nobody could know of them."""
        if self._presence is not None and not self._presence.may_sign(self._clock()):
            raise RequestRefused("store", "this control plane has been cut off from the API server for a day")
        return self._authority()

    async def begin(self) -> None:
        """Before anything is issued. Raises StoreError if nothing may be."""
        if self._presence is not None:
            await self._roll.flush()
            await self._presence.first(*self._truth(), self._clock())

    async def follow(self) -> None:
        """Write what sidecars have said, and forget certificates that have expired, until cancelled."""
        pruned = 0.0
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self._roll.flush()
            if self._presence is not None:
                await self._presence.tell(*self._truth())
            if (now := self._clock()) >= pruned + PRUNE_SECONDS:
                pruned = now
                try:
                    await asyncio.to_thread(self._leaves.prune, now)
                    if self._presence is not None:
                        await asyncio.to_thread(self._presence.prune, now)
                except StoreError as error:
                    logger.error("expired certificates are not removed", extra={"fields": {"problem": str(error)}})

    async def end(self) -> None:
        """Nothing is issued any more."""
        if self._presence is not None:
            await self._roll.flush()
            if self._roll.is_written:
                await self._presence.end()

    def _truth(self) -> tuple[str, float]:
        """By what it signs, and when it had read that; 0 if it has given out a certificate without a record."""
        read_at = self._read_at()  # before the authority, which may be a later one
        signs_by = in_force(self._authority())
        return signs_by, read_at if self._roll.is_written else 0.0
