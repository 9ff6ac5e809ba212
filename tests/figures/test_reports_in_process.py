"""What reports take of a control plane beside the connections that they come on, for ten thousand sidecars: reading,
adding up, sealing slots, looking for drift, and the receipt. Messages are handed over without sockets, so that it takes
seconds; what TLS and HTTP/2 take is in `test_mesh_reports`.
"""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from benchmarks.processes import status_bytes
from meshproxy.control.allocator import give_back
from meshproxy.control.reporting import ReportService
from meshproxy.control_api import REPORT
from tests.control.test_distribution import NOW, FakeCall, workload
from tests.figures.simulated_sidecars import CALLERS, report_of

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(150)]

SIDECARS = int(os.environ.get("SIDECARS", "10000"))
ROUNDS = int(os.environ.get("ROUNDS", "12"))
"""Reports of each: two minutes."""
AT_ONCE = 100
MOST_CORES = 0.2
"""Of the one that reports may take in all."""


class Call(FakeCall):
    """Its receipts go nowhere."""

    def __init__(self, number: int) -> None:
        super().__init__(workload(NOW + 86_400.0, f"m{number // 100}"), f"10.0.{number // 256}.{number % 256}:1")

    def post(self, framed: bytes) -> None:
        assert framed


def megabytes() -> float:
    give_back()
    return status_bytes(os.getpid(), "VmRSS") / 2**20


async def test_the_reports_of_ten_thousand_sidecars() -> None:
    now = NOW
    service = ReportService(lambda: now)
    calls = [Call(number) for number in range(SIDECARS)]
    tasks = [asyncio.ensure_future(service.methods[REPORT](call)) for call in calls]  # type: ignore[arg-type]
    await asyncio.sleep(0)
    every, before, used = service.every, megabytes(), 0.0
    for sequence in range(1, ROUNDS + 1):
        for first in range(0, SIDECARS, AT_ONCE):
            now += every * AT_ONCE / SIDECARS
            messages = [report_of(first + number, sequence, every) for number in range(AT_ONCE)]
            begun = time.thread_time()
            for call, message in zip(calls[first : first + AT_ONCE], messages, strict=True):
                call.messages.append(message)
                call.wake()
            while any(call.messages for call in calls[first : first + AT_ONCE]):
                await asyncio.sleep(0)
            used += time.thread_time() - begun
    known = service.mesh.reporters
    each = used / known.received
    print(
        f"{known.received} reports of {CALLERS} rows by {SIDECARS} sidecars: {each * 1e6:.0f} us of CPU for one, "
        f"{each * SIDECARS / every:.3f} cores at one in {every:g} s; "
        f"{service.mesh.ring.cells} cells, {megabytes() - before:.1f} MB more"
    )
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (known.received, known.lost, known.malformed) == (SIDECARS * ROUNDS, 0, 0)
    assert each * SIDECARS / every <= MOST_CORES
