"""The reports of several workers: each keeps its own, and tells them at `/reports` on its admin port."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from meshproxy.control_api import MeshReport
from meshproxy.sidecar.http_get import Access, FetchError, Url, fetch
from meshproxy.transport.client import ClientError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from meshproxy.sidecar.report_queue import ReportQueue

logger = logging.getLogger(__name__)

ANSWER_BYTES = 4 << 20
"""Of one worker: as many reports as wait, of 64 KB each, are less."""


def tell(queue: ReportQueue, query: bytes) -> bytes:
    """The page `/reports?RUN=SEQUENCE`: what waits, after the one that there is a receipt for."""
    run, _, sequence = query.partition(b"=")
    if sequence.isdigit() and len(sequence) < 20:
        queue.acknowledge(run.decode("ascii", "replace"), int(sequence))
    return msgspec.json.encode(queue.collect())


class WorkerReports:
    """What the workers have to report (`ReportSource`).

    Args:
        workers: the addresses of their admin ports, by number.
    """

    def __init__(self, workers: Callable[[], Mapping[int, str]]) -> None:
        self._workers = workers
        self._runs: dict[int, str] = {}
        """By worker."""
        self._acknowledged: dict[str, int] = {}

    async def pending(self) -> Sequence[MeshReport]:
        """What waits at all of them."""
        pages = await asyncio.gather(*(self._ask(number, at) for number, at in self._workers().items()))
        return [report for page in pages for report in page]

    def acknowledge(self, run: str, sequence: int) -> None:
        """`ReportSource`: the worker is told when it is asked next."""
        if run in self._runs.values():
            self._acknowledged[run] = max(sequence, self._acknowledged.get(run, 0))

    async def _ask(self, number: int, address: str) -> list[MeshReport]:
        run = self._runs.get(number, "")
        query = f"?{run}={self._acknowledged.get(run, 0)}" if run else ""
        try:
            page = await fetch(Url.read(f"http://{address}/reports{query}"), ANSWER_BYTES, Access())
            reports = msgspec.json.decode(page, type=list[MeshReport])
        except (FetchError, ClientError, msgspec.MsgspecError) as error:
            logger.warning("worker %d does not tell its reports: %s", number, error)
            return []
        if reports and reports[-1].run != run:
            self._acknowledged.pop(run, None)
            self._runs[number] = reports[-1].run
        return reports
