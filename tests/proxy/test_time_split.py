"""Where the time went: conversations in which it passes at one place, and what holds in every one."""

from __future__ import annotations

from typing import Any

import pytest

from meshproxy.codec.events import RequestHead, ResponseHead
from meshproxy.config.routes import Concurrency, Delay, Fault
from meshproxy.config.routes import Retries as RetrySettings
from meshproxy.identity.tokens import KeysWanted
from meshproxy.proxy.exchange import Exchange
from meshproxy.proxy.time_split import TimeSplit, split_time, split_time_so_far
from meshproxy.refusal import Reason
from meshproxy.routing.fault import FaultRule
from meshproxy.transport.connect_failures import ConnectError
from tests.proxy.fakes import FakeDownstream

CANCEL = 0x8
LIMITED = Concurrency(limit=1, queue=2, queue_timeout=9.0)
HEAD = ResponseHead(0, 200, (), False)


def parts(exchange: Exchange) -> dict[str, float]:
    """The parts that took time, in seconds."""
    split = split_time(exchange)
    assert split == split_time_so_far(exchange, exchange.finished)
    assert sum(part for part in split if part is not None) == pytest.approx(exchange.finished - exchange.started)
    return {name: round(part, 6) for name, part in split._asdict().items() if part}


def reached(exchange: Exchange) -> list[str]:
    return [name for name, part in split_time(exchange)._asdict().items() if part is not None]


def finished(world: Any) -> Exchange:
    (exchange,) = world.finished
    world.assert_let_go()
    assert exchange.finished
    return exchange  # type: ignore[no-any-return]


class TestAnAnsweredRequest:
    def test_whose_path_names_the_model(self, world: Any) -> None:
        world.cluster.is_ready = False
        client = world.rest(body=None, length=2)
        world.loop.now += 1
        world.cluster.give(world.cluster.all[0].pool.waiting.pop())
        world.loop.now += 2
        client.receive(b"{}", True)
        (server,) = world.cluster.streams
        world.loop.now += 4
        server.reader.head_received(HEAD)
        world.loop.now += 8
        client.is_full = True
        server.reader.data_received(b"{}", 2, True)
        world.loop.now += 16
        client.sink.drained()
        exchange = finished(world)
        assert parts(exchange) == {"connect": 1, "read": 2, "upstream": 4, "body": 8, "write": 16}
        assert reached(exchange) == list(TimeSplit._fields)

    def test_whose_body_names_it(self, world: Any, wire: Any) -> None:
        client = world.grpc(None)
        message = wire.framed(wire.spec(b"open"))
        for piece in (message[:3], message[3:]):
            world.loop.now += 1
            client.receive(piece, False)
        world.loop.now += 4
        client.receive(b"", True)
        world.loop.now += 8
        world.cluster.streams[0].respond_grpc()
        assert parts(finished(world)) == {"read": 2 + 4, "upstream": 8}

    def test_for_which_keys_were_fetched(self, world: Any, wire: Any) -> None:
        world.verifier.raises = KeysWanted("corp")
        client = world.grpc(None, headers=((b"authorization", b"Bearer good"),))
        world.loop.now += 1
        world.verifier.raises = None
        ((_, then),) = world.refreshes
        then()
        world.loop.now += 2
        client.receive(wire.framed(wire.spec(b"open")), True)
        world.cluster.streams[0].respond_grpc()
        assert parts(finished(world)) == {"decide": 1, "read": 2}

    def test_that_is_answered_before_its_body_has_come(self, world: Any) -> None:
        client = world.rest(body=None, length=2)
        world.loop.now += 1
        world.cluster.streams[0].reader.head_received(HEAD)
        world.loop.now += 2
        client.receive(b"{}", True)
        world.cluster.streams[0].reader.data_received(b"{}", 2, True)
        assert parts(finished(world)) == {"read": 1, "body": 2}

    def test_that_waits_for_its_turn(self, world: Any) -> None:
        world.serve(concurrency=LIMITED)
        world.rest()
        world.rest()
        world.loop.now += 1
        world.cluster.streams[0].respond()
        world.loop.now += 2
        world.cluster.streams[1].respond()
        first, second = world.finished
        assert (parts(first), parts(second)) == ({"upstream": 1}, {"queue": 1, "upstream": 2})
        world.assert_let_go()

    def test_that_is_delayed(self, world: Any) -> None:
        world.serve(fault=FaultRule(Fault(delay=Delay(percent=100, duration=2.0))))
        world.rest()
        world.loop.advance(2.0)
        world.cluster.streams[0].respond()
        assert parts(finished(world)) == {"queue": 2}


class TestSeveralAttempts:
    def test_what_came_before_the_last_one_is_told_apart(self, world: Any) -> None:
        cluster = world.serve(2, retries=RetrySettings(backoff=1.0, backoff_max=1.0))
        world.rest()
        world.loop.now += 1
        cluster.all[1].pool.is_ready = False
        cluster.streams[0].respond(b"", 503)
        world.loop.now += 4
        cluster.give(cluster.all[1].pool.waiting.pop())
        world.loop.now += 8
        cluster.streams[1].respond()
        exchange = finished(world)
        assert parts(exchange) == {"retry": 1, "connect": 4, "upstream": 8}
        assert len(exchange.attempts) == 2

    def test_a_pause_between_them_counts_as_retry(self, world: Any) -> None:
        cluster = world.serve(1, retries=RetrySettings(backoff=1.0, backoff_max=1.0))
        world.rest()
        cluster.streams[0].respond(b"", 503)
        world.loop.advance(2.0)
        world.loop.now += 8
        cluster.streams[1].respond()
        found = parts(finished(world))
        assert set(found) == {"retry", "upstream"}
        assert found["retry"] + found["upstream"] == 10

    @pytest.mark.parametrize("winner", [0, 1])
    def test_of_two_at_once_the_one_that_answers_counts(self, world: Any, winner: int) -> None:
        cluster = world.serve(2, retries=RetrySettings(hedge_after=1.0))
        world.rest()
        world.loop.advance(1.0)
        world.loop.now += 2
        cluster.streams[winner].respond()
        assert parts(finished(world)) == [{"upstream": 3}, {"retry": 1, "upstream": 2}][winner]

    def test_of_two_at_once_the_one_that_is_left_counts(self, world: Any) -> None:
        cluster = world.serve(2, retries=RetrySettings(attempts=2, hedge_after=1.0), timeout=10.0)
        world.rest()
        world.loop.advance(1.0)
        cluster.streams[0].respond(b"", 503)
        world.wait(9.0)
        exchange = finished(world)
        assert parts(exchange) == {"retry": 1, "upstream": 9}


class TestARefusedRequest:
    def test_before_the_decision(self, world: Any) -> None:
        world.rest(b"/v1/models/closed:predict", body=None, length=2)
        world.wait(3.0)  # for the rest of its body
        exchange = finished(world)
        assert exchange.refusal.reason is Reason.PERMISSION_DENIED  # type: ignore[union-attr]
        assert parts(exchange) == {"write": exchange.finished - exchange.started}
        assert reached(exchange) == ["read", "decide", "write"]

    def test_whose_body_never_names_a_model(self, world: Any) -> None:
        client = world.grpc(None)
        world.loop.now += 1
        client.sink.reset_received(CANCEL, "gone")
        exchange = finished(world)
        assert (parts(exchange), reached(exchange)) == ({"read": 1}, ["read", "decide"])

    def test_while_it_waits_for_its_turn(self, world: Any) -> None:
        world.serve(concurrency=LIMITED, timeout=5.0)
        world.rest()
        client = world.rest()
        world.loop.now += 1
        client.sink.reset_received(CANCEL, "gone")
        world.cluster.streams[0].respond()
        exchange = world.finished[0]
        assert (parts(exchange), reached(exchange)) == ({"queue": 1}, ["read", "decide", "queue", "retry", "connect"])

    def test_because_nothing_can_be_reached(self, world: Any) -> None:
        world.serve(retries=RetrySettings(attempts=1)).is_ready = False
        world.rest()
        world.loop.now += 1
        world.cluster.all[0].pool.waiting.pop().acquire_failed(ConnectError("refused"))
        exchange = finished(world)
        assert parts(exchange) == {"connect": 1}
        assert reached(exchange) == ["read", "decide", "queue", "retry", "connect", "write"]

    def test_because_the_server_does_not_answer(self, world: Any) -> None:
        world.serve(timeout=5.0)
        world.rest()
        world.wait(6.0)
        exchange = finished(world)
        assert exchange.refusal.reason is Reason.DEADLINE_EXCEEDED  # type: ignore[union-attr]
        assert set(parts(exchange)) == {"upstream"}

    def test_because_its_body_stops(self, world: Any) -> None:
        world.rest(body=None, length=2)
        world.wait(40.0)
        exchange = finished(world)
        assert exchange.refusal.reason is Reason.REQUEST_TIMEOUT  # type: ignore[union-attr]
        assert set(parts(exchange)) == {"read"}

    def test_in_the_middle_of_its_answer(self, world: Any) -> None:
        world.serve(timeout=5.0)
        world.rest()
        world.cluster.streams[0].reader.head_received(HEAD)
        world.wait(6.0)
        assert set(parts(finished(world))) == {"body"}


def test_a_request_that_the_sidecar_answers_has_been_decided() -> None:
    head = RequestHead(1, b"POST", b"host", b"/grpc.health.v1.Health/Check", (), False)
    exchange = Exchange(head, FakeDownstream().info, 100.0)
    exchange.decided, exchange.first_byte, exchange.finished = 101.0, 102.0, 105.0
    assert split_time(exchange) == TimeSplit(0.0, 2.0, write=3.0)


def test_one_that_goes_on_is_told_as_far_as_it_has_come(world: Any) -> None:
    world.rest()
    world.loop.now += 3
    (exchange,) = world.pipeline.live
    assert split_time_so_far(exchange, world.loop.now).upstream == 3
