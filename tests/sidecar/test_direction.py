"""One direction: a port and its pipeline."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.codec.limits import Limits
from meshproxy.config.fields import BindingSubject, Metadata, WorkloadSubject
from meshproxy.config.schema import BindingSpec, ModelRole, ModelRoleBinding, RoleSpec, Rule
from meshproxy.config.values import Address
from meshproxy.inference.call import Call, Verb
from meshproxy.policy.compile import compile_policy
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


async def test_redirected_connections_of_ipv6_arrive_too() -> None:
    direction, _, _ = made(is_transparent=True)
    direction.listen(Address("127.0.0.1", 0))
    address = direction.listener.address
    assert address.startswith("127.0.0.1:")
    port = int(address.rpartition(":")[2])
    for host in ("127.0.0.1", "::1"):
        _, writer = await asyncio.open_connection(host, port)
        writer.close()
    await direction.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("::1", port)


async def test_a_host_without_ipv6_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    direction, _, _ = made(is_transparent=True)
    listen = direction.listener.listen

    def without_ipv6(host: str, port: int, *, is_shared: bool = False) -> None:
        if host == "::1":
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        listen(host, port, is_shared=is_shared)

    monkeypatch.setattr(direction.listener, "listen", without_ipv6)
    direction.listen(Address("127.0.0.1", 0))
    assert direction.listener.address.startswith("127.0.0.1:")
    await direction.close()


async def test_an_address_that_is_taken_is_an_obstacle() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        direction, _, _ = made(is_transparent=True)
        with pytest.raises(OSError, match="in use"):
            direction.listen(Address("127.0.0.1", taken.getsockname()[1]))
        await direction.close()


async def test_what_is_permitted_to_nobody_in_particular() -> None:
    """By the address alone: a header that a stranger may send is none."""
    direction, pipeline, _ = made()
    role = ModelRole(metadata=Metadata("scrape"), spec=RoleSpec((Rule(("*",), ("metrics",)),)))
    subjects = (
        BindingSubject(ip_blocks=("10.0.0.0/8",)),
        BindingSubject(headers={"x-scraper": "yes"}),
        BindingSubject(workload=WorkloadSubject("a", "b")),
    )
    binding = ModelRoleBinding(metadata=Metadata("scrape"), spec=BindingSpec("scrape", subjects))
    policy = compile_policy([role], [binding], "dev.example")
    pipeline.snapshot = SimpleNamespace(policy=policy)  # type: ignore[assignment]
    assert direction.permits(Call(Verb.METRICS), "10.0.0.1:4000")
    assert not direction.permits(Call(Verb.METRICS), "11.0.0.1:4000")
    assert not direction.permits(Call(Verb.RELOAD), "10.0.0.1:4000")
