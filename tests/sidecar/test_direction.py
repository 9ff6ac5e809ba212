"""One direction: a port and its pipeline."""

from __future__ import annotations

import asyncio
import ssl
from types import SimpleNamespace
from typing import Any

from meshproxy.codec.limits import Limits
from meshproxy.config.values import Address
from meshproxy.sidecar.direction import Direction
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from meshproxy.transport.connection import ConnectionContext, Times
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.listener import Security
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper


class Pipeline:
    def __init__(self) -> None:
        self.snapshot = "first"
        self.closed = 0
        self.mirrors = SimpleNamespace(close=self.close)

    def close(self) -> None:
        self.closed += 1

    def serve(self, stream: Any, head: Any) -> None: ...
    def reject(self, stream: Any, rejected: Any) -> None: ...


def made(name: str = "outbound", **options: Any) -> tuple[Direction, Pipeline, SidecarMetrics]:
    loop = asyncio.get_running_loop()
    shared = ConnectionContext(
        loop=loop, outbox=Outbox(loop), reaper=Reaper(loop), limits=Limits(), times=Times(), on_limit=lambda name: None
    )
    pipeline: Any = Pipeline()
    metrics = SidecarMetrics()
    direction = Direction(
        name,
        metrics,
        pipeline,
        shared=shared,
        security=Security.PLAINTEXT,
        context=None,
        identify=lambda tls: None,
        max_connections=7,
        **options,
    )
    return direction, pipeline, metrics


async def test_it_listens_and_closes_with_its_copies() -> None:
    direction, pipeline, _ = made()
    direction.listen(Address("127.0.0.1", 0))
    host, _, port = direction.listener.address.rpartition(":")
    assert host == "127.0.0.1"
    assert int(port)
    await direction.close()
    assert pipeline.closed == 1


async def test_workers_share_a_port() -> None:
    first, _, _ = made()
    second, _, _ = made()
    first.listen(Address("127.0.0.1", 0), shared_port=0)
    port = int(first.listener.address.rpartition(":")[2])
    second.listen(Address("127.0.0.1", 0), shared_port=port)
    assert second.listener.address == first.listener.address
    await first.close()
    await second.close()


async def test_what_is_adopted_counts_from_the_next_request_on() -> None:
    direction, pipeline, _ = made("inbound")
    snapshot: Any = "second"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    direction.listener.context = context
    direction.adopt(snapshot, 9)
    assert (pipeline.snapshot, direction.listener.max_connections) == ("second", 9)
    assert direction.listener.context is context  # the identity rotates apart


async def test_what_happens_at_its_port_is_counted_by_direction() -> None:
    direction, _, metrics = made("outbound")
    plain = ConnectionInfo(direction="outbound", protocol="HTTP/2", remote="", local="")
    direction.connected(plain)
    direction.connected(plain)
    direction.disconnected(plain)
    direction.handshake("ok", "")
    direction.limit("streams")
    assert metrics.open_connections.labels("outbound", "HTTP/2").value == 1
    assert metrics.tls_handshakes.labels("outbound", "ok", "").value == 1
    assert metrics.limits_exceeded.labels("outbound", "streams").value == 1
    assert metrics.connections.labels("outbound", "plaintext").value == 2
