"""grpc.health.v1.Health as clients see it: Check, Watch, and what they hear when things change."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.inference.grpc_health import CHECK, WATCH, Serving, write_request, write_response
from meshproxy.proxy.health_call import REQUEST_BYTES
from meshproxy.upstream.health import CheckSettings, Health
from meshproxy.upstream.serving import HealthService

CANCEL = 0x8


@pytest.fixture
def health() -> Health:
    """Of a server that was well when it was looked at."""
    health = Health(CheckSettings(("open", "closed"), unhealthy_after=1))
    for what in (None, "open", "closed"):
        health.record(what, True, 99.0)
    return health


@pytest.fixture
def service(world: Any, health: Health) -> HealthService:
    cluster: Any = SimpleNamespace(endpoints={"a": SimpleNamespace(health=health), "b": SimpleNamespace(health=None)})
    service = HealthService(cluster)
    world.use(health=service)
    return service


def ask(world: Any, wire: Any, service: str = "", target: bytes = CHECK, cut: int | None = None) -> Any:
    client = world.grpc(None, method=target)
    body = write_request(service)
    if cut is not None:
        client.receive(body[:cut], False)
        body = body[cut:]
    client.receive(body, True)
    return client


def heard(client: Any) -> list[Serving]:
    """What a Watch has said so far."""
    said, body = [], client.body
    while body:
        size = 5 + int.from_bytes(body[1:5], "big")
        said.append(next(each for each in Serving if write_response(each) == body[:size]))
        body = body[size:]
    return said


class TestCheck:
    @pytest.mark.parametrize("name", ["", "PredictionService", "ModelService", "open"])
    def test_of_what_serves(self, world: Any, wire: Any, service: HealthService, name: str) -> None:
        client = ask(world, wire, name)
        assert heard(client) == [Serving.SERVING]
        assert client.trailers == ((b"grpc-status", b"0"),)
        assert world.cluster.streams == []
        (exchange,) = world.finished
        assert (exchange.status, exchange.grpc_status) == (200, 0)
        assert exchange.bytes_sent == len(client.body)
        world.assert_let_go()

    def test_of_what_does_not(self, world: Any, wire: Any, service: HealthService, health: Health) -> None:
        health.record("open", False, 100.0)
        assert heard(ask(world, wire, "open")) == [Serving.NOT_SERVING]
        assert heard(ask(world, wire)) == [Serving.SERVING]
        health.record(None, False, 100.0)
        assert heard(ask(world, wire)) == [Serving.NOT_SERVING]

    def test_of_what_nobody_has_looked_at_yet(self, world: Any, wire: Any) -> None:
        health = Health(CheckSettings(("open",)))
        world.use(health=HealthService(SimpleNamespace(endpoints={"a": SimpleNamespace(health=health)})))  # type: ignore[arg-type]
        assert health.allows("open")
        assert heard(ask(world, wire, "open")) == [Serving.NOT_SERVING]
        health.record(None, True, 100.0)
        health.record("open", True, 100.0)
        assert heard(ask(world, wire, "open")) == [Serving.SERVING]

    def test_of_what_nobody_knows(self, world: Any, wire: Any, service: HealthService) -> None:
        client = ask(world, wire, "open-unknown")
        assert (client.headers[b"grpc-status"], client.ended) == (b"5", True)
        assert world.finished[0].grpc_status == 5
        world.assert_let_go()

    def test_the_policy_is_asked(self, world: Any, wire: Any, service: HealthService) -> None:
        client = ask(world, wire, "closed")
        assert client.headers[b"grpc-status"] == b"7"
        world.assert_let_go()

    def test_in_pieces(self, world: Any, wire: Any, service: HealthService) -> None:
        assert heard(ask(world, wire, "open", cut=7)) == [Serving.SERVING]

    def test_too_long(self, world: Any, wire: Any, service: HealthService) -> None:
        client = world.grpc(None, method=CHECK)
        client.receive(bytes(REQUEST_BYTES + 1), False)
        assert client.headers[b"grpc-status"] == b"8"
        assert world.limits_hit == ["health_request"]
        world.assert_let_go()

    def test_malformed(self, world: Any, wire: Any, service: HealthService) -> None:
        client = world.grpc(None, method=CHECK)
        client.receive(b"\0\0\0\0\x01\xff", True)
        assert client.headers[b"grpc-status"] == b"3"

    def test_one_that_never_ends_is_given_up(self, world: Any, service: HealthService) -> None:
        client = world.grpc(None, method=CHECK)
        for _ in range(2):
            world.wait(world.snapshot.limits.stall + 0.1)
        assert client.headers[b"x-meshproxy-refusal"] == b"request-timeout"

    def test_where_nobody_checks_the_model_server_answers(self, world: Any, wire: Any) -> None:
        ask(world, wire)
        assert len(world.cluster.streams) == 1


class TestWatch:
    def test_says_what_changes(self, world: Any, wire: Any, service: HealthService, health: Health) -> None:
        client = ask(world, wire, "open", WATCH)
        service.changed()
        assert heard(client) == [Serving.SERVING]
        health.record("open", False, 100.0)
        service.changed()
        service.changed()
        assert heard(client) == [Serving.SERVING, Serving.NOT_SERVING]
        for _ in range(3):
            world.wait(world.snapshot.limits.stall + 0.1)  # it may be silent for as long as nothing changes
        assert not client.ended
        client.sink.reset_received(CANCEL, "gone")
        assert service._watching == set()
        health.record("open", True, 100.0)
        service.changed()
        assert len(heard(client)) == 2
        world.assert_let_go()

    def test_also_of_what_nobody_knows_yet(self, world: Any, wire: Any, service: HealthService, health: Health) -> None:
        client = ask(world, wire, "open-new", WATCH)
        health.watch(("open-new",))
        health.record("open-new", True, 100.0)
        service.changed()
        assert heard(client) == [Serving.SERVICE_UNKNOWN, Serving.SERVING]

    def test_ends_when_we_go_away(self, world: Any, wire: Any, service: HealthService) -> None:
        client = ask(world, wire, "open", WATCH)
        service.drain()
        assert heard(client) == [Serving.SERVING, Serving.NOT_SERVING]
        assert client.trailers == ((b"grpc-status", b"14"),)
        late = ask(world, wire, "open", WATCH)
        assert heard(late) == [Serving.NOT_SERVING]
        assert late.trailers == ((b"grpc-status", b"14"),)
        world.assert_let_go()

    def test_a_client_that_catches_up_goes_on_watching(
        self, world: Any, wire: Any, service: HealthService, health: Health
    ) -> None:
        client = wire.client()
        client.is_full = True
        world.grpc(None, method=WATCH, client=client)
        client.receive(write_request("open"), True)
        client.is_full = False
        client.sink.drained()
        health.record("open", False, 100.0)
        service.changed()
        assert heard(client) == [Serving.SERVING, Serving.NOT_SERVING]

    def test_ends_at_its_deadline(self, world: Any, wire: Any, service: HealthService) -> None:
        client = world.grpc(None, method=WATCH, headers=((b"grpc-timeout", b"5S"),))
        client.receive(write_request(""), True)
        world.wait(5)
        assert client.reset_code is not None
        assert service._watching == set()
        world.assert_let_go()

    def test_a_mistake_at_one_does_not_keep_it_from_others(
        self, world: Any, wire: Any, service: HealthService, health: Health, caplog: pytest.LogCaptureFixture
    ) -> None:
        clients = [ask(world, wire, "open", WATCH) for _ in range(3)]
        clients[1].send_data = None
        health.record("open", False, 100.0)
        service.changed()
        assert [len(heard(client)) for client in clients] == [2, 1, 2]
        assert clients[1].reset_code is not None
        assert "internal error" in caplog.text
