"""When connections are given up because their certificates expire."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass, field
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.identity.caller import Workload
from meshproxy.identity.mesh_context import MeshContext
from meshproxy.transport.certificate_age import (
    EARLIEST,
    EXPIRED,
    LATEST,
    LEAVING,
    PATIENCE,
    PATIENCE_SHARE,
    SPACING,
    CertificateAge,
    leaves_after,
    note,
    time_left,
)
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.listener import Security
from tests.processes.waiting import until
from tests.transport.test_listener import ask, listening, tls_client

NOW = 1_000.0


def info(leaves_at: float = inf, expires_at: float = inf) -> ConnectionInfo:
    made = ConnectionInfo(direction="inbound", protocol="HTTP/2", remote="10.0.0.1:1", local="")
    made.leaves_at, made.expires_at = leaves_at, expires_at
    return made


@dataclass(eq=False)
class FakeConnection:
    info: ConnectionInfo
    is_idle: bool = True
    is_announced: bool = False
    is_closing: bool = False
    drains: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @property
    def shared(self) -> Any:
        return SimpleNamespace(on_drained=self.told.append)

    def drain(self, patience: float) -> None:
        self.drains.append(patience)

    def close(self) -> None:
        self.is_closing = True


def watching(*connections: FakeConnection) -> CertificateAge:
    crowd: Any = set(connections)
    age = CertificateAge(crowd)
    for connection in connections:
        age.watch(connection.info)
    return age


def handshake(context: ssl.SSLContext) -> Any:
    return SimpleNamespace(context=context)


def test_the_first_certificate_to_expire_counts() -> None:
    context = MeshContext(ssl.PROTOCOL_TLS_SERVER)
    soon = time.time() + 60.0
    assert time_left(handshake(context), 0.0) == inf
    assert time_left(handshake(context), soon) == pytest.approx(60.0, abs=1.0)
    context.not_after = soon - 30.0
    assert time_left(handshake(context), soon) == pytest.approx(30.0, abs=1.0)
    assert time_left(handshake(context), 0.0) == pytest.approx(30.0, abs=1.0)
    assert time_left(handshake(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)), 0.0) == inf  # of a named server


def test_they_do_not_leave_together() -> None:
    assert (leaves_after(100.0, 0.0), leaves_after(100.0, 1.0)) == (100.0 * EARLIEST, pytest.approx(100.0 * LATEST))
    drawn = [leaves_after(100.0) for _ in range(100)]
    assert 100.0 * EARLIEST <= min(drawn) < max(drawn) <= 100.0 * LATEST


@pytest.mark.parametrize("has_certificate", [True, False])
def test_what_is_noted_at_the_handshake(has_certificate: bool) -> None:
    context = MeshContext(ssl.PROTOCOL_TLS_SERVER)
    made = info()
    note(made, handshake(context), NOW)
    assert (made.leaves_at, made.expires_at) == (inf, inf)
    if has_certificate:
        made.peer = Workload("spiffe://d/ns/a/sa/b", "d", "a", "b", time.time() + 60.0)
    else:
        context.not_after = time.time() + 60.0
    note(made, handshake(context), NOW)
    assert made.expires_at == pytest.approx(NOW + 60.0, abs=1.0)
    assert NOW + 60.0 * EARLIEST - 1.0 < made.leaves_at < NOW + 60.0 * LATEST


def test_each_is_asked_in_time_and_once() -> None:
    first, second = FakeConnection(info(NOW + 10.0, NOW + 20.0)), FakeConnection(info(NOW + 15.0, NOW + 16.0))
    other = FakeConnection(info())
    age = watching(second, first, other)
    assert age.deadline == NOW + 10.0
    age.expire(NOW + 10.0)
    assert (first.drains, second.drains, first.told) == ([PATIENCE], [], [LEAVING])
    assert age.deadline == NOW + 15.0
    age.expire(NOW + 15.0)
    assert (first.drains, second.drains) == ([PATIENCE], [1.0 * PATIENCE_SHARE])
    assert age.deadline == NOW + 16.0
    second.is_idle = False
    age.expire(NOW + 16.0)  # what is in flight goes on
    assert (second.is_closing, second.told) == (False, [LEAVING])
    age.expire(NOW + 20.0)
    assert (first.is_closing, first.told) == (True, [LEAVING, EXPIRED])
    assert age.deadline == 0.0
    assert (other.drains, other.told) == ([], [])


def test_one_that_comes_later_and_leaves_earlier() -> None:
    age = watching(FakeConnection(info(NOW + 10.0, NOW + 20.0)))
    age.watch(info(NOW + 5.0, NOW + 6.0))
    assert age.deadline == NOW + 5.0
    age.watch(info(NOW + 7.0, NOW + 8.0))
    assert age.deadline == NOW + 5.0


def test_many_that_leave_at_nearly_the_same_time_are_one_look() -> None:
    age = watching(*(FakeConnection(info(NOW + number / 1_000, NOW + 60.0)) for number in range(100)))
    age.expire(NOW)
    assert age.deadline == NOW + SPACING


def test_one_that_was_asked_for_another_reason_is_not_counted() -> None:
    connection = FakeConnection(info(NOW, NOW), is_announced=True)
    watching(connection).expire(NOW)
    assert (connection.drains, connection.told, connection.is_closing) == ([], [], False)


async def test_clients_of_a_port_leave_before_its_certificate_expires() -> None:
    """One that asks is told with the answer; one that does not is closed when it is too late."""
    async with listening(Security.TLS) as port:
        listener = port.listener
        told: list[str] = []
        listener.shared.on_drained = told.append
        context = listener.context
        assert isinstance(context, MeshContext)
        context.not_after = time.time() + 3_600.0
        reader, writer = await port.connect(tls_client("http/1.1"))
        assert await ask(reader, writer)
        (asking,) = listener.connections
        idle, idle_writer = await port.connect(tls_client("http/1.1"))
        assert await ask(idle, idle_writer)
        (quiet,) = listener.connections - {asking}
        left = asking.info.leaves_at - listener.shared.loop.time()
        assert 3_600.0 * EARLIEST - 60.0 < left < 3_600.0 * LATEST

        asking.info.leaves_at = quiet.info.leaves_at = listener._ages.deadline = listener.shared.loop.time()
        await until(lambda: told == [LEAVING, LEAVING])
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"connection: close" in await reader.readuntil(b"\r\n\r\n")
        quiet.info.expires_at = listener._ages.deadline = listener.shared.loop.time()
        await until(lambda: told == [LEAVING, LEAVING, EXPIRED])
        assert await idle.read() == b""
        for each in (writer, idle_writer):
            each.close()
