"""Tells the objects of the cluster what became of them: the leader of the control planes writes their `status`.

A verdict is written about the object that it was made of: the object is read before, and passed over if somebody has
changed it meanwhile. Nothing is written that it says already. So a write is followed by no other, and by none of what
it may cause: the status is no part of a document (`objects.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx2
from lightkube.models.meta_v1 import ObjectMeta

from meshproxy.config.schema import KINDS, ModelServer
from meshproxy.control.cluster import FAILURES, http_status, why
from meshproxy.control.object_status import Reference, Sidecars, Verdict, reference_to, says, status_of
from meshproxy.control.objects import read_object, resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightkube import AsyncClient

    from meshproxy.control.distribution import DocumentService
    from meshproxy.control.documents import MeshDocuments
    from meshproxy.control.election import Election
    from meshproxy.control.endpoints import EndpointTable
    from meshproxy.telemetry.control_metrics import ControlMetrics

logger = logging.getLogger(__name__)

FIELD_MANAGER = "meshproxy-control"
"""Of the status, whichever control plane leads."""
PERIOD = 1.0
"""Seconds between two looks at what there is to say."""
OBJECTS_A_LOOK = 10
"""Objects that are read, and written if they do not say it yet, at each look."""
AGAIN_AFTER = 30.0
"""Seconds until an object is tried again whose status was refused."""
COUNTS_EVERY = 30.0
"""Seconds between two writes of an object of which only the number of its sidecars has changed."""
CALL_SECONDS = 5.0

_KINDS = {kind.__name__: kind for kind in KINDS}


class StatusWriter:
    """Writes for one namespace for as long as `run` runs and this control plane leads."""

    def __init__(
        self,
        client: AsyncClient,
        documents: MeshDocuments,
        distribution: DocumentService,
        table: EndpointTable,
        election: Election,
        metrics: ControlMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is written yet.

        Args:
            client: of the cluster; its namespace is the objects'.
            documents: what was read, and what is in force.
            distribution: knows the sidecars.
            table: knows the Services that documents name.
            election: tells whether this control plane leads.
            metrics: counts writes.
            clock: seconds since the epoch.
        """
        self._client = client
        self._documents = documents
        self._distribution = distribution
        self._table = table
        self._election = election
        self._metrics = metrics
        self._clock = clock
        self._said: dict[str, tuple[Verdict, Sidecars, float]] = {}
        """What each object says, by its name, and since when."""
        self._later: dict[str, float] = {}
        """When objects are tried again whose status was refused."""
        self._problem = ""

    async def run(self) -> None:
        """Write what is new until cancelled."""
        while True:
            await asyncio.sleep(PERIOD)
            await self.look()

    async def look(self) -> None:
        """Write some of what is new. A new leader reads all objects once."""
        if not self._election.is_leader():
            self._said.clear()
            return
        due = list(self._due())
        # What has changed before what is only looked at because this control plane has begun to lead.
        due.sort(key=lambda each: each[0] not in self._said)
        for name, verdict, sidecars in due[:OBJECTS_A_LOOK]:
            if not self._election.is_leader():
                return
            try:
                async with asyncio.timeout(CALL_SECONDS):
                    await self._say(name, verdict, sidecars)
            except FAILURES as error:
                self._failed(error)
                if http_status(error) is None:
                    return  # the API server is away
                self._later[name] = self._clock() + AGAIN_AFTER

    def _due(self) -> Iterator[tuple[str, Verdict, Sidecars]]:
        """What is to be said of which objects."""
        newest, now = self._documents.newest, self._clock()
        self._said = {name: said for name, said in self._said.items() if name in newest}
        self._later = {name: when for name, when in self._later.items() if name in newest and when > now}
        problems: dict[str, list[str]] = {}
        for problem in self._documents.problems:
            problems.setdefault(problem.file, []).append(": ".join(filter(None, (problem.field, problem.message))))
        held_back = self._documents.held_back
        concerned, updated = self._distribution.holders()
        for name, source in newest.items():
            if name in self._later:
                continue
            verdict = Verdict(
                source.content,
                tuple(problems.get(name, ())),
                name not in held_back,
                self._reference_of(name),
                source.edition,
            )
            sidecars = Sidecars(concerned[name], updated[name])
            said = self._said.get(name)
            if said is None or said[0] != verdict or (said[1] != sidecars and now >= said[2] + COUNTS_EVERY):
                yield name, verdict, sidecars

    def _reference_of(self, name: str) -> Reference | None:
        """What became of the Service that an object in force names."""
        held = self._documents.held.get(name)
        document = held.document if held is not None else None
        if not isinstance(document, ModelServer) or document.spec.service is None:
            return None
        service = document.spec.service
        return reference_to(
            service, self._table.current(service.key).endpoints, is_known=self._table.is_known(service.key)
        )

    async def _say(self, name: str, verdict: Verdict, sidecars: Sidecars) -> None:
        """Have one object say this. Raises what a call raises."""
        kind, _, short = name.partition("/")
        made: Any = resource(_KINDS[kind])
        try:
            shown: Any = await self._client.get(made, short)
        except httpx2.HTTPStatusError as error:
            if error.response.status_code != 404:
                raise
            return  # it was deleted, of which we shall hear
        source = read_object(kind, shown)
        if (source.content, source.edition) != (verdict.content, verdict.edition):
            return  # likewise
        now = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        before = shown.get("status") or {}
        status = status_of(verdict, sidecars, shown["metadata"]["generation"], before, now)
        if not says(before, status):
            metadata = ObjectMeta(name=short, namespace=self._client.namespace)
            told = made.Status(metadata=metadata, status=status)
            await self._client.apply(told, field_manager=FIELD_MANAGER, force=True)
            self._metrics.status_writes.labels("ok").value += 1
        self._said[name] = verdict, sidecars, self._clock()
        self._problem = ""

    def _failed(self, error: Exception) -> None:
        self._metrics.status_writes.labels("failed").value += 1
        problem = why(error, "get objects and patch their status")
        if problem != self._problem:
            logger.warning("the status of objects is not written; trying again", extra={"fields": {"problem": problem}})
        self._problem = problem
