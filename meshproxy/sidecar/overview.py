"""The admin port of a sidecar with several workers: the same pages, put together from theirs when they are asked for.

Workers answer on UNIX sockets. One that does not in time never holds up a page: it counts as not ready, its gauges are
missing, and of its counters the numbers stand that it had when it was last seen (`telemetry.merge`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Protocol

from meshproxy.codec.events import RequestHead
from meshproxy.sidecar.admin import JSON, METRICS, OPENMETRICS, TEXT, Admin, Operated, reply, reply_ready
from meshproxy.sidecar.http_get import one_shot
from meshproxy.telemetry.exposition import render, wants_openmetrics
from meshproxy.telemetry.merge import Ledger, Page, read_page, write_page
from meshproxy.transport.channel import H1Channel, Target
from meshproxy.transport.client import ClientError, Failure, StatusError, exchange

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from pathlib import Path

    from meshproxy.sidecar.admin import Reader
    from meshproxy.sidecar.supervisor import Worker
    from meshproxy.telemetry.metrics import CounterSeries, Registry
    from meshproxy.transport.stream import Downstream

logger = logging.getLogger(__name__)

ASK_SECONDS = 1.0
"""For one page of one worker: below the second and more that who asks us waits. All are asked at once."""
PAGE_BYTES = 64 << 20


class Supervised(Operated, Protocol):
    """The supervisor, as far as its admin port needs it."""

    @property
    def workers(self) -> Sequence[Worker]:
        """All of them, whatever their state."""


class Overview(Admin):
    """Serves the supervisor's admin port.

    Args:
        missed: counts the answers that did not come in time.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, registry: Registry, supervised: Supervised, missed: CounterSeries
    ) -> None:
        super().__init__(loop, registry, supervised)
        self._supervised = supervised
        self._missed = missed
        self._ledger = Ledger()
        self._scrape: asyncio.Task[Page] | None = None
        self._answers: set[asyncio.Task[None]] = set()

    def died(self, number: int) -> None:
        """A worker is gone, and with it what it counted."""
        self._ledger.died(number)

    async def close(self) -> None:
        """Answer nobody any more."""
        tasks: list[asyncio.Task[None] | asyncio.Task[Page]] = list(self._answers)
        if self._scrape is not None:
            tasks.append(self._scrape)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # The pages

    def _readyz(self, stream: Downstream, reader: Reader, head: RequestHead, *, verbose: bool) -> None:
        self._later(self._answer_ready(stream, reader, head, verbose))

    def _metrics(self, stream: Downstream, reader: Reader, head: RequestHead) -> None:
        self._later(self._answer_metrics(stream, reader, head))

    def _config(self, stream: Downstream, reader: Reader, head: RequestHead) -> None:
        self._later(self._answer_config(stream, reader, head))

    def _later(self, answer: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(answer)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer_ready(self, stream: Downstream, reader: Reader, head: RequestHead, verbose: bool) -> None:
        conditions = self._supervised.readiness()
        for worker, answer in await self._ask_all(b"/readyz"):
            conditions[f"worker {worker.seat.number} is ready"] = answer is not None
        if not reader.is_gone:
            reply_ready(stream, head, conditions, verbose=verbose)

    async def _answer_config(self, stream: Downstream, reader: Reader, head: RequestHead) -> None:
        answers = await self._ask_all(b"/config")
        workers: list[dict[str, object]] = [
            {
                "number": worker.seat.number,
                "pid": worker.pid,
                "state": worker.state,
                "configuration": json.loads(answer) if answer is not None else None,
            }
            for worker, answer in answers
        ]
        fingerprints = {json.loads(answer)["fingerprint"] if answer is not None else None for _, answer in answers}
        page = {
            "fingerprint": fingerprints.pop() if len(fingerprints) == 1 else None,
            "same": not fingerprints,
            **self._supervised.configuration(),
            "workers": workers,
        }
        if not reader.is_gone:
            reply(stream, head, 200, json.dumps(page, indent=2).encode() + b"\n", JSON)

    async def _answer_metrics(self, stream: Downstream, reader: Reader, head: RequestHead) -> None:
        accept = next((value for name, value in head.headers if name == b"accept"), None)
        openmetrics = wants_openmetrics(accept)
        if self._scrape is None:
            # Whoever asks meanwhile gets the same numbers.
            self._scrape = self._loop.create_task(self._gather())
            self._scrape.add_done_callback(self._gathered)
        page = await asyncio.shield(self._scrape)
        if reader.is_gone:
            return
        headers = ((b"content-type", OPENMETRICS if openmetrics else METRICS), TEXT[1])
        is_whole = head.method == b"HEAD"
        stream.send_response(200, headers, end=is_whole)
        if not is_whole:
            self._send_pieces(stream, reader, write_page(page, openmetrics=openmetrics))

    def _gathered(self, task: asyncio.Task[Page]) -> None:
        self._scrape = None

    async def _gather(self) -> Page:
        lives = {worker.seat.number: worker.lives for worker in self._supervised.workers}
        present = []
        for worker, answer in await self._ask_all(b"/metrics"):
            number = worker.seat.number
            if answer is None or lives[number] != worker.lives or worker.state != "serving":
                # Late, or the numbers of one that has died meanwhile: they are not its successor's.
                continue
            try:
                self._ledger.answered(number, read_page(answer.decode()))
            except ValueError as error:
                logger.error("the numbers of worker %d cannot be read: %s", number, error)
                continue
            present.append(number)
            await asyncio.sleep(0)
        own = read_page(b"".join(render(self._registry)).decode())
        return self._ledger.merged(own, present)

    # The workers

    async def _ask_all(self, target: bytes) -> list[tuple[Worker, bytes | None]]:
        """A page of every worker, in `ASK_SECONDS`; None of those that do not have it by then, or not with a 200."""
        workers = list(self._supervised.workers)
        return list(zip(workers, await asyncio.gather(*(self._ask(worker, target) for worker in workers)), strict=True))

    async def _ask(self, worker: Worker, target: bytes) -> bytes | None:
        if worker.state != "serving":
            return None
        try:
            return await ask(worker.seat.socket, target, ASK_SECONDS)
        except ClientError as error:
            if error.failure in (Failure.CONNECT, Failure.TIMEOUT):
                self._missed.value += 1
                logger.warning("worker %d does not answer: %s", worker.seat.number, error)
            else:
                logger.debug("worker %d on %s: %s", worker.seat.number, target.decode(), error)
        return None


async def ask(path: Path, target: bytes, seconds: float) -> bytes:
    """GET a page from a UNIX socket. Raises ClientError unless the response is complete and has status 200."""
    head = RequestHead(0, b"GET", b"", target, ((b"accept", b"application/json"), (b"user-agent", b"meshproxy")), True)
    channel = H1Channel(one_shot(), Target(str(path)), connect_timeout=seconds)
    try:
        response = await exchange(channel, head, timeout=seconds, max_body_bytes=PAGE_BYTES)
    finally:
        channel.abort()
    if response.status != 200:
        raise StatusError(f"the response has status {response.status}", response.status)
    return response.body
