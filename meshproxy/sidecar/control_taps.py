"""Calls that somebody looks at through the control plane: each order is a reader of the page `/tap` of this sidecar, or
of each of its workers, whose lines go on a stream of their own.

So the bounds are those of that page (`live_pages`), as is what `spec.telemetry.tap` lets anybody see. Without an order
nothing is done and nothing of this is loaded.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from meshproxy.control_api import TAP, TapLines
from meshproxy.identity.certificates import CertificateError
from meshproxy.sidecar.worker import reachable
from meshproxy.transport.client import ClientError
from meshproxy.transport.grpc_stream import open_call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from meshproxy.control_api import TapOrder
    from meshproxy.sidecar.control_channel import ControlChannel
    from meshproxy.transport.grpc_stream import Call

logger = logging.getLogger(__name__)

MOST_ORDERS = 4
"""At once; more than `live_pages.MOST_READERS` would be refused there."""
MOST_SECONDS = 3_600.0
ANSWER_SECONDS = 5.0
HEAD_BYTES = 8_192
PIECE_BYTES = 1 << 20
"""Of a chunk of the page, which is about 64 KiB."""
MESSAGE_BYTES = 40 << 10
"""Of the lines in one message: a control plane takes 64 KiB (`control.app.MESSAGE_BYTES`)."""
MESSAGE_LINES = 500
ANSWERS_BYTES = 1_024
"""Of a message of the control plane, which sends none."""


class PageRefused(Exception):
    """The page does not say what was asked for. The message says why."""


class ControlTaps:
    """Carries out orders.

    Args:
        channel: to the control plane.
        pages: the addresses of the admin ports, on loopback, by worker.
    """

    def __init__(self, channel: ControlChannel, pages: Callable[[], Mapping[int, str]]) -> None:
        self._channel = channel
        self._pages = pages
        self._running: dict[str, asyncio.Task[None]] = {}

    def order(self, order: TapOrder) -> None:
        """Begin to show calls. One order too many, or one that is being carried out, is not taken."""
        if order.id in self._running or len(self._running) >= MOST_ORDERS:
            logger.warning("order to show calls not taken", extra={"fields": {"running": len(self._running)}})
            return
        task = asyncio.create_task(self._carry_out(order))
        self._running[order.id] = task
        task.add_done_callback(lambda _: self._running.pop(order.id))

    async def stop(self) -> None:
        """Show no more."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry_out(self, order: TapOrder) -> None:
        fields = {"control": self._channel.address, "query": order.query}
        logger.info("calls are shown to the control plane", extra={"fields": fields})
        problem = ""
        try:
            async with (
                asyncio.timeout(min(order.seconds, MOST_SECONDS)),
                self._channel.streams() as h2,
                await open_call(h2, TAP, max_message_bytes=ANSWERS_BYTES) as call,
            ):
                await self._show(order, call)
        except (ClientError, CertificateError, OSError) as error:
            problem = str(error)
        fields = {"control": self._channel.address, "problem": problem}
        logger.info("calls are no longer shown to the control plane", extra={"fields": fields})

    async def _show(self, order: TapOrder, call: Call) -> None:
        """Until the control plane ends the call. Raises ClientError."""
        await call.send(msgspec.json.encode(TapLines(order.id)))
        ended = asyncio.create_task(_end(call))
        pages = [asyncio.create_task(_relay(order, call, *page)) for page in self._pages().items()]
        try:
            while not ended.done() and pages:
                done, _ = await asyncio.wait([ended, *pages], return_when=asyncio.FIRST_COMPLETED)
                pages = [page for page in pages if page not in done]
                for each in done:
                    each.result()
            if not ended.done():  # what was said last is read before the call is gone
                await call.done_sending()
                await ended
        finally:
            for task in (ended, *pages):
                task.cancel()
            await asyncio.gather(ended, *pages, return_exceptions=True)


async def _end(call: Call) -> None:
    async for _ in call:
        pass


async def _relay(order: TapOrder, call: Call, worker: int, address: str) -> None:
    """The lines of one page. Raises ClientError."""
    try:
        async for lines in read_page(address, f"/tap?{order.query}"):
            for part in _parts(lines):
                await call.send(msgspec.json.encode(TapLines(order.id, worker, part)))
    except (PageRefused, OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
        text = str(error)[:256] or type(error).__name__
        await call.send(msgspec.json.encode(TapLines(order.id, worker, problem=text)))


def _parts(lines: list[bytes]) -> list[tuple[dict[str, object], ...]]:
    """Lines in messages. Raises ValueError for one that is no object."""
    parts: list[tuple[dict[str, object], ...]] = []
    part: list[dict[str, object]] = []
    size = 0
    for line in lines:
        if part and (size + len(line) > MESSAGE_BYTES or len(part) >= MESSAGE_LINES):
            parts.append(tuple(part))
            part, size = [], 0
        part.append(msgspec.json.decode(line, type=dict[str, object]))
        size += len(line)
    return [*parts, tuple(part)] if part else parts


async def read_page(address: str, target: str) -> AsyncIterator[list[bytes]]:
    """The lines of a page of this host that goes on, as they come: chunks of RFC 9112 section 7.1, whole lines each.

    Raises:
        PageRefused: it is not served.
        OSError, TimeoutError, IncompleteReadError, ValueError: it cannot be read.
    """
    host, _, port = address.rpartition(":")
    host = reachable(host)
    async with asyncio.timeout(ANSWER_SECONDS):
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), limit=HEAD_BYTES)
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode("ascii"))
        async with asyncio.timeout(ANSWER_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        status = head[9:12]  # HTTP/1.1 200
        if status != b"200":
            raise PageRefused(await _reason(reader, head, status.decode("ascii", "replace")))
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            if size > PIECE_BYTES:
                raise ValueError("a chunk of the page is too large")
            yield (await reader.readexactly(size)).splitlines()
            await reader.readexactly(2)
    except asyncio.LimitOverrunError:
        raise ValueError("a line of the page is too long") from None
    finally:
        writer.close()


async def _reason(reader: asyncio.StreamReader, head: bytes, status: str) -> str:
    """What the page says of a refusal, on one line."""
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length" and value.strip().isdigit():
            body = await reader.readexactly(min(int(value), HEAD_BYTES))
            return " ".join(body.decode("utf-8", "replace").split())
    return f"/tap answers with status {status}"
