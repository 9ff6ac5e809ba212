from __future__ import annotations

import logging
import resource

import pytest

from meshproxy.control.clients import (
    CONNECTION_BURST,
    CONNECTIONS,
    SidecarClients,
    allow_descriptors,
    most_clients,
    most_connections,
)
from meshproxy.identity.caller import Workload
from meshproxy.telemetry.control_metrics import ControlMetrics
from meshproxy.transport.connection_info import ConnectionInfo


class World:
    """The clients of a port, and what they were counted as."""

    def __init__(self, rate: float = 2.0) -> None:
        self.now = 100.0
        self.came = 0
        self.metrics = ControlMetrics()
        self.clients = SidecarClients(self.metrics, rate, lambda: self.now, self._come)

    def _come(self) -> None:
        self.came += 1

    @property
    def refused(self) -> float:
        return self.metrics.limits_exceeded.labels("control", "identity_connections").value


@pytest.fixture
def world() -> World:
    return World()


def client(name: str = "") -> ConnectionInfo:
    """Of a workload, or of nobody."""
    peer = Workload(f"spiffe://m.example/ns/a/sa/{name}", "m.example", "a", name, 2e9) if name else None
    return ConnectionInfo(
        direction="control", protocol="HTTP/2", remote="10.0.0.1:40000", local="10.0.0.2:18600", peer=peer
    )


def test_an_address_opens_so_many_at_once_and_then_a_second(world: World) -> None:
    burst = int(2 * CONNECTION_BURST)
    assert [world.clients.admits("10.0.0.1") for _ in range(burst + 1)] == [True] * burst + [False]
    assert world.clients.admits("10.0.0.2")
    world.now += 0.5
    assert [world.clients.admits("10.0.0.1") for _ in range(2)] == [True, False]


def test_one_identity_has_three_quarters(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world.clients.most = 4
    for _ in range(3):
        assert world.clients.welcomes(client("greedy"))
        world.clients.connected(client("greedy"))
    assert not world.clients.welcomes(client("greedy"))
    assert world.refused == 1
    [message] = caplog.messages
    assert message.startswith("a connection of spiffe://m.example/ns/a/sa/greedy from 10.0.0.1:40000 is closed: 3, ")
    assert world.clients.welcomes(client("another"))
    world.clients.disconnected(client("greedy"))
    assert world.clients.welcomes(client("greedy"))


def test_whoever_has_none_is_not_one_identity(world: World) -> None:
    world.clients.most = 2
    for _ in range(5):
        assert world.clients.welcomes(client())
        world.clients.connected(client())
    assert world.refused == 0


def test_of_few_connections_each_identity_has_one(world: World) -> None:
    world.clients.most = 1
    assert world.clients.welcomes(client("only"))
    world.clients.connected(client("only"))
    assert not world.clients.welcomes(client("only"))


def test_what_is_open_is_counted(world: World) -> None:
    open_connections = world.metrics.open_connections.labels("control", "HTTP/2")
    for info in (client("a"), client()):
        world.clients.connected(info)
    assert (open_connections.value, world.came) == (2, 2)
    for info in (client("a"), client()):
        world.clients.disconnected(info)
    assert open_connections.value == 0
    assert not world.clients._connected  # identities that left hold nothing


def test_handshakes_are_counted(world: World) -> None:
    world.clients.handshake("failed", "expired")
    assert world.metrics.tls_handshakes.labels("control", "failed", "expired").value == 1


@pytest.mark.parametrize(
    ("descriptors", "connections"),
    [(1 << 20, CONNECTIONS), (-1, CONNECTIONS), (4_096, 3_072), (128, 64), (64, 1), (0, 1)],
)
def test_sidecars_leave_descriptors_to_the_control_plane(descriptors: int, connections: int) -> None:
    assert most_connections(descriptors) == connections


@pytest.mark.parametrize(("descriptors", "clients"), [(1 << 20, 256), (-1, 256), (1_024, 64), (64, 8)])
def test_clients_of_pages_leave_descriptors_to_sidecars(descriptors: int, clients: int) -> None:
    assert most_clients(descriptors, 256) == clients


def test_all_descriptors_that_there_may_be_are_had() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        assert allow_descriptors() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
