"""Reports of calls to the control plane: one stream, on which one goes every few seconds, and a receipt comes back. So
do orders to show calls as they end, which `control_taps` carries out."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from meshproxy.control_api import REPORT, ReportReceipt
from meshproxy.sidecar.control_channel import read_message
from meshproxy.sidecar.control_stream import follow_stream
from meshproxy.sidecar.reconnect import keep_open
from meshproxy.transport.client import ClientError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshproxy.sidecar.control_channel import ControlChannel
    from meshproxy.sidecar.control_taps import ControlTaps
    from meshproxy.sidecar.report_queue import ReportSource
    from meshproxy.transport.grpc_stream import Call

logger = logging.getLogger(__name__)

RECEIPT_BYTES = 4_096
EVERY = 5.0
"""Seconds between reports, unless the control plane asks for others."""
LEAST, MOST = 1.0, 60.0
"""What it may ask for."""
LEAVING_SECONDS = 1.0
"""For the last report."""


class ControlReports:
    """Sends the reports of a source.

    Args:
        channel: to the control plane.
        source: of the reports.
        pages: the addresses of the admin ports of what carries calls, by worker.
    """

    def __init__(self, channel: ControlChannel, source: ReportSource, pages: Callable[[], Mapping[int, str]]) -> None:
        self._channel = channel
        self._source = source
        self._pages = pages
        self._taps: ControlTaps | None = None
        self._every = EVERY
        self.sent = 0
        """Reports, in all."""
        self.received = 0
        """Receipts."""
        self._last: dict[str, int] = {}
        """The last report that went on this stream, by run."""

    async def run(self) -> None:
        """Send reports until cancelled, whatever happens to the control plane."""
        try:
            await keep_open(self._follow, lambda: self.received, self._failed)
        finally:
            if self._taps is not None:
                await self._taps.stop()

    async def _follow(self) -> str:
        self._last = {}
        return await follow_stream(
            self._channel,
            REPORT,
            RECEIPT_BYTES,
            talk=self._talk,
            take=self._take,
            leave=self._leave,
            older=self._note_older,
        )

    def _note_older(self, problem: str) -> str:
        logger.info("this control plane takes no reports of calls: it is older than we, or does not want them")
        return ""

    def _failed(self, problem: str) -> None:
        fields = {"control": self._channel.address, "problem": problem}
        logger.warning("reports of calls are not taken; trying again", extra={"fields": fields})

    async def _talk(self, call: Call) -> None:
        while True:
            await self._send(call)
            await asyncio.sleep(self._every)

    async def _send(self, call: Call) -> None:
        """Send what did not go on this stream. Raises ClientError."""
        for report in await self._source.pending():
            if report.sequence > self._last.get(report.run, 0):
                self._last[report.run] = report.sequence
                await call.send(msgspec.json.encode(report))
                self.sent += 1

    async def _take(self, message: bytes) -> None:
        """A receipt, or an order. Raises ClientError if it cannot be read."""
        receipt = read_message(message, ReportReceipt, "the receipt of a report is")
        if receipt.tap is not None:
            if self._taps is None:
                from meshproxy.sidecar.control_taps import ControlTaps  # for those at whose calls somebody looks

                self._taps = ControlTaps(self._channel, self._pages)
            self._taps.order(receipt.tap)
            return
        self.received += 1
        self._source.acknowledge(receipt.run, receipt.sequence)
        if receipt.every > 0:
            self._every = min(max(receipt.every, LEAST), MOST)

    async def _leave(self, call: Call) -> None:
        """Say the last, and that it is the last."""
        with suppress(TimeoutError, ClientError):
            async with asyncio.timeout(LEAVING_SECONDS):
                await self._send(call)
                await call.done_sending()
