"""Keeps the Lease of the control planes in the API server: reads it, writes it, releases it at the end."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx2
from lightkube.generic_resource import create_namespaced_resource

from meshproxy.control.cluster import FAILURES, why
from meshproxy.control.lease import DURATION, RETRY, Candidate, Lease

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lightkube import AsyncClient

logger = logging.getLogger(__name__)

NAME = "meshproxy-control"
"""Of the Lease."""
CALL_SECONDS = 3.0
"""For one call: a leader has time for another attempt before it has to stop."""

# As a dictionary: lightkube's model would write a time on a whole second without the six digits that the API server
# insists on.
Resource = create_namespaced_resource("coordination.k8s.io", "v1", "Lease", "leases")


def seconds_since_boot() -> float:
    """A clock that nobody sets, and that goes on while the host is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Election:
    """Takes part in the election for as long as `run` runs.

    Attributes:
        problem: why the Lease cannot be read or written now; empty if it can.
    """

    def __init__(
        self,
        client: AsyncClient,
        identity: str,
        *,
        clock: Callable[[], float] = seconds_since_boot,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is asked yet.

        Args:
            client: of the cluster; its namespace is the Lease's.
            identity: tells this process from all others.
            clock: judges who leads.
            wall_clock: seconds since the epoch, for people who look at the Lease.
        """
        self._client = client
        self._candidate = Candidate(identity)
        self._clock = clock
        self._wall_clock = wall_clock
        self._found: dict[str, Any] = {}
        self.problem = ""

    def is_leader(self) -> bool:
        """Whether this process leads at this moment."""
        return self._candidate.is_leader(self._clock())

    @property
    def holder(self) -> str:
        """Who has the Lease, as far as is known."""
        return self._candidate.holder

    async def run(self) -> None:
        """Take part until cancelled; then let another one lead at once."""
        led = False
        attempt: asyncio.Task[None] | None = None
        try:
            while True:
                attempt = asyncio.create_task(self._attempt())
                await asyncio.shield(attempt)
                if self.is_leader() != led:
                    led = not led
                    logger.info("leader" if led else "not leader", extra={"fields": {"holder": self.holder}})
                await asyncio.sleep(RETRY)
        finally:
            if attempt is not None:  # only with its answer is it known whether there is something to release
                await asyncio.wait((attempt,))
            released = self._candidate.release(self._clock())
            if released is not None:
                with suppress(*FAILURES):  # then others wait for its end
                    await self._write(released)

    async def _attempt(self) -> None:
        """Read the Lease, and write it if it is ours or nobody's."""
        try:
            await self._read()
            proposal = self._candidate.proposal(self._clock())
            if proposal is not None:
                await self._write(proposal)
        except FAILURES as error:
            problem = why(error, "get, create and update the Lease")
            if problem != self.problem:
                logger.warning("the Lease cannot be kept; trying again", extra={"fields": {"problem": problem}})
            self.problem = problem
        else:
            self.problem = ""

    async def _read(self) -> None:
        async with asyncio.timeout(CALL_SECONDS):
            try:
                self._found = dict(await self._client.get(Resource, NAME))
            except httpx2.HTTPStatusError as error:
                if error.response.status_code != HTTPStatus.NOT_FOUND:
                    raise
                self._found = {}
        self._candidate.saw(_lease(self._found), self._clock())

    async def _write(self, lease: Lease) -> None:
        """Write what was proposed. Nothing happens if somebody else was quicker: the next read tells."""
        thing = _object(lease, self._found, self._wall_clock())
        sent_at = self._clock()
        write = self._client.create if lease.version is None else self._client.replace
        try:
            async with asyncio.timeout(CALL_SECONDS):
                self._found = dict(await write(thing))
        except httpx2.HTTPStatusError as error:
            if error.response.status_code != HTTPStatus.CONFLICT:
                raise
            return
        found = _lease(self._found)
        assert found is not None
        if found.holder == self._candidate.identity:
            self._candidate.wrote(found, sent_at, self._clock())


def _lease(thing: Mapping[str, Any]) -> Lease | None:
    """What an object says; None for none."""
    if not thing:
        return None
    spec = thing.get("spec") or {}
    return Lease(
        holder=spec.get("holderIdentity") or "",
        duration=spec.get("leaseDurationSeconds") or DURATION,
        transitions=spec.get("leaseTransitions") or 0,
        version=thing["metadata"]["resourceVersion"],
    )


def _object(lease: Lease, found: Mapping[str, Any], now: float) -> Any:
    """The object to write in place of the one that was found."""
    # Exactly six digits: the API server refuses anything else.
    text = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    before = found.get("spec") or {}
    spec = {"leaseDurationSeconds": lease.duration, "leaseTransitions": lease.transitions, "renewTime": text}
    spec["acquireTime"] = before.get("acquireTime") or text
    if lease.holder:
        spec["holderIdentity"] = lease.holder
    if lease.holder != before.get("holderIdentity"):
        spec["acquireTime"] = text
    thing: dict[str, Any] = {"metadata": found.get("metadata") or {"name": NAME}, "spec": spec}
    return Resource(**thing)
