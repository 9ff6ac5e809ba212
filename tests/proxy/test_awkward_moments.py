"""Requests that end at an awkward moment: each is observed once, and everything of it is let go."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.codec.events import Headers, ResponseHead
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.config.routes import Compare, Concurrency, Mirror
from meshproxy.config.routes import Retries as RetrySettings
from meshproxy.identity.caller import Caller
from meshproxy.identity.tokens import KeysWanted
from meshproxy.inference.call import Call
from meshproxy.inference.grpc_health import CHECK, WATCH, Serving, write_request, write_response
from meshproxy.policy.decide import Permit
from meshproxy.proxy.attempt import Attempt
from meshproxy.proxy.health_call import HealthCall
from meshproxy.proxy.held_body import HeldBody
from meshproxy.proxy.mirror import MirroredRequest
from meshproxy.proxy.pipeline import ActiveRequest
from meshproxy.proxy.retries import Retries
from meshproxy.proxy.route_actions import RouteActions
from meshproxy.refusal import Reason
from meshproxy.routing.split import Arm, Split
from meshproxy.transport.h2_client import GOING_AWAY
from meshproxy.upstream.health import CheckSettings, Health
from meshproxy.upstream.serving import HealthService

GRPC = ((b"content-type", b"application/grpc"),)


class HeadsTooLarge:
    """Makes a client refuse every response head, as one that announces SETTINGS_MAX_HEADER_LIST_SIZE 0 does: the
    transport resets the stream, and tells its sink (`transport.h2`)."""

    def __init__(self, client: Any) -> None:
        self._client = client
        client.send_response = self.send_response
        client.send_data = client.send_trailers = lambda *_: True  # nothing is sent on a closed stream

    def send_response(self, status: int, headers: Any, end: bool, length: int | None = None) -> None:
        client = self._client
        sink, client.sink = client.sink, None
        client.reset(ErrorCode.INTERNAL_ERROR)
        if sink is not None:
            sink.reset_received(ErrorCode.INTERNAL_ERROR, "the head is too large")


def too_large(client: Any) -> Any:
    HeadsTooLarge(client)
    return client


def serving() -> HealthService:
    health = Health(CheckSettings(("open",), unhealthy_after=1))
    for what in (None, "open"):
        health.record(what, True, 99.0)
    cluster: Any = SimpleNamespace(endpoints={"a": SimpleNamespace(health=health)})
    return HealthService(cluster)


class TestAClientThatTakesNoHead:
    """Its stream is reset while the head is being sent."""

    def seen(self, world: Any) -> Any:
        (exchange,) = world.finished
        assert world.pipeline.served == 1
        world.assert_let_go()
        return exchange

    def test_of_an_answer_without_a_body(self, world: Any, wire: Any) -> None:
        client = too_large(wire.client("HTTP/2"))
        world.rest(client=client)
        world.cluster.streams[0].sink.head_received(ResponseHead(0, 204, (), end=True))
        assert str(self.seen(world).flags) == "DC"

    def test_of_an_answer_with_one(self, world: Any, wire: Any) -> None:
        client = too_large(wire.client("HTTP/2"))
        world.rest(client=client)
        server = world.cluster.streams[0]
        server.sink.head_received(ResponseHead(0, 200, (), end=False))
        assert server.reset_code == ErrorCode.CANCEL
        self.seen(world)

    @pytest.mark.parametrize("last", ["data", "end", "trailers"])
    def test_of_a_grpc_answer_that_begins_with_its_first_piece(self, world: Any, wire: Any, last: str) -> None:
        world.grpc(wire.spec(b"open"), client=too_large(wire.client()))
        attempt = world.cluster.streams[0].sink
        attempt.head_received(ResponseHead(0, 200, GRPC, end=False))
        if last == "trailers":
            attempt.trailers_received(((b"grpc-status", b"0"),))
        else:
            attempt.data_received(b"answer", 6, last == "end")
        assert self.seen(world).bytes_sent == 0

    def test_of_a_refusal(self, world: Any, wire: Any) -> None:
        world.rest(b"/v1/models/closed:predict", client=too_large(wire.client("HTTP/2")))
        world.grpc(wire.spec(b"closed"), client=too_large(wire.client()))
        assert [exchange.refusal.reason for exchange in world.finished] == [Reason.PERMISSION_DENIED] * 2
        world.assert_let_go()

    @pytest.mark.parametrize("method", [CHECK, WATCH])
    @pytest.mark.parametrize("service", ["open", "open-unknown"])
    def test_of_a_health_check(self, world: Any, wire: Any, method: bytes, service: str) -> None:
        health = serving()
        world.use(health=health)
        client = too_large(wire.client())
        world.grpc(None, method=method, client=client)
        client.receive(write_request(service), True)
        self.seen(world)
        assert health._watching == set()


class TestHealthWhoseClientDoesNotRead:
    def test_a_check_is_given_up(self, world: Any, wire: Any) -> None:
        world.use(health=serving())
        client = wire.client()
        client.is_full = True
        world.grpc(None, method=CHECK, client=client)
        client.receive(write_request("open"), True)
        world.wait(70)
        assert client.reset_code == ErrorCode.CANCEL
        assert str(world.finished[0].flags) == "DT"
        world.assert_let_go()

    def test_nothing_is_told_after_the_end_of_a_watch(self, world: Any, wire: Any) -> None:
        health = serving()
        world.use(health=health)
        client = wire.client()
        world.grpc(None, method=WATCH, client=client)
        client.receive(write_request("open-unknown"), True)
        client.is_full = True
        health.drain()
        health.changed()
        assert client.body == write_response(Serving.SERVICE_UNKNOWN) + write_response(Serving.NOT_SERVING)
        assert client.trailers == ((b"grpc-status", b"14"),)
        client.sink.drained()
        assert world.finished[0].grpc_status == 14
        world.assert_let_go()


def test_the_body_is_not_lost_between_a_refused_stream_and_the_fallback_server(world: Any, wire: Any) -> None:
    cluster = world.serve(retries=RetrySettings(attempts=1), fallback=Arm(1, "other"))
    world.other.is_ready = False
    client = world.rest(body=None, length=4)
    cluster.streams[0].sink.reset_received(ErrorCode.REFUSED_STREAM, GOING_AWAY)
    assert world.traffic.events[-1] == ("fell back",)
    client.receive(b"body", True)
    (attempt,) = world.other.waiting
    world.other.waiting.clear()
    world.other.give(attempt)
    (server,) = world.other.streams
    assert (server.body, server.ended) == (b"body", True)
    server.respond()
    assert client.status == 200
    world.assert_let_go()


def test_a_request_that_was_ended_by_another_in_the_same_sweep_gets_no_timer(world: Any) -> None:
    cluster = world.serve(concurrency=Concurrency(limit=1, queue_timeout=100.0))
    first = world.rest(body=None, length=4)
    second = world.rest(headers=((b"x-envoy-expected-rq-timeout-ms", b"61000"),))
    cluster.out.add("endpoint-0")
    late = [first.sink, second.sink]
    for _ in range(2):  # at the first look, bytes have just moved
        world.loop.now += 30.3
        for request in late:
            request.expire(world.loop.now)
    assert [exchange.refusal.reason for exchange in world.finished] == [Reason.NO_UPSTREAM, Reason.REQUEST_TIMEOUT]
    world.assert_let_go()


def test_audits_of_the_version_that_was_asked_for_survive_a_later_task(world: Any, wire: Any) -> None:
    class Audited:
        def decide(self, caller: Caller, call: Call, remote: str, headers: Headers) -> Permit:
            return Permit("binding", tuple(dict.fromkeys(f"version-{model.version}" for model in call.models)))

    cluster = world.serve(split=Split([Arm(1, None, "2")]))
    world.use(policy=Audited(), routes=world.pipeline.snapshot.routes)
    task, signed = wire.spec(b"open"), b"\x0a\x09\x0a\x04open\x1a\x01s"  # the other one names a signature
    message = wire.framed(b"".join(b"\x0a" + bytes([len(each)]) + each for each in (task, signed)))
    client = world.grpc(None, method=b"/tensorflow.serving.PredictionService/MultiInference")
    client.receive(message[: 5 + len(task) + 2], False)
    client.receive(message[5 + len(task) + 2 :], True)
    cluster.streams[0].respond_grpc()
    (exchange,) = world.finished
    assert exchange.permit_audits == ("version-None", "version-2")


class TestReferenceCounting:
    """Nothing of a request waits for the garbage collector: no object of it refers to itself by others."""

    TYPES = (ActiveRequest, Attempt, HealthCall, HeldBody, MirroredRequest, Retries, RouteActions)

    def instances(self) -> list[object]:
        return [each for each in gc.get_objects() if type(each) in self.TYPES]

    @pytest.fixture(autouse=True)
    def no_collector(self, world: Any) -> Iterator[None]:
        """Afterwards nothing of the requests is left, though the garbage collector has not run."""
        gc.collect()
        before = {id(each) for each in self.instances()}  # of a test that failed, as its traceback keeps them
        gc.disable()
        try:
            yield
            world.assert_let_go()
            # What only the fakes keep: the transport drops the sink of a stream that has ended, and a loop the callback
            # of a timer that was cancelled.
            for cluster in (world.cluster, world.other):
                for stream in cluster.streams:
                    stream.sink = None
            world.finished.clear()
            for timer in world.loop.timers:
                timer.callback = None
            world.policy.asked.clear()
            alive = [type(each).__name__ for each in self.instances() if id(each) not in before]
        finally:
            gc.enable()
        assert alive == []

    def test_after_an_answer(self, world: Any, wire: Any) -> None:
        world.rest()
        world.grpc(wire.spec(b"open"))
        rest, grpc = world.cluster.streams
        rest.respond()
        grpc.respond_grpc()

    @pytest.mark.parametrize("authorization", [b"Bearer good", b"Bearer bad"])
    def test_after_a_refusal(self, world: Any, wire: Any, authorization: bytes) -> None:
        headers = ((b"authorization", authorization),)
        world.rest(b"/v1/models/closed:predict", headers=headers)
        world.rest(b"/nowhere", headers=headers)
        world.grpc(wire.spec(b"closed"), headers=headers)
        assert [exchange.refusal is None for exchange in world.finished] == [False] * 3

    def test_after_a_defect(self, world: Any, caplog: pytest.LogCaptureFixture) -> None:
        world.use(clusters={})
        world.rest()
        assert "internal error" in caplog.text
        caplog.clear()

    @pytest.mark.parametrize("when", ["held", "sent", "answering"])
    def test_after_the_client_left(self, world: Any, when: str) -> None:
        world.cluster.is_ready = when != "held"
        client = world.rest()
        if when == "answering":
            world.cluster.streams[0].sink.head_received(ResponseHead(0, 200, (), end=False))
        client.sink.reset_received(ErrorCode.CANCEL, "gone")

    def test_after_the_model_server_broke_off(self, world: Any) -> None:
        world.serve()
        world.rest()
        world.cluster.streams[0].sink.reset_received(ErrorCode.CANCEL, "gone")
        world.rest()
        sink = world.cluster.streams[1].sink
        sink.head_received(ResponseHead(0, 200, (), end=False))
        sink.reset_received(ErrorCode.CANCEL, "gone")

    def test_after_a_retry(self, world: Any) -> None:
        cluster = world.serve(2, retries=RetrySettings(), try_timeout=1.0)
        client = world.rest()
        cluster.streams[0].sink.reset_received(ErrorCode.CANCEL, "gone")
        cluster.streams[1].respond()
        assert client.status == 200

    @pytest.mark.parametrize("first", [0, 1])
    def test_after_a_hedge(self, world: Any, first: int) -> None:
        cluster = world.serve(2, retries=RetrySettings(hedge_after=0.05))
        client = world.rest()
        world.wait(0.1)
        cluster.streams[first].respond()
        assert client.status == 200
        assert cluster.streams[1 - first].reset_code == ErrorCode.CANCEL

    def test_after_a_mirrored_request(self, world: Any) -> None:
        world.serve(mirror=Mirror(server="other", compare=Compare()), concurrency=Concurrency(limit=1))
        world.rest()
        world.cluster.streams[0].respond()
        world.other.streams[0].respond()
        assert world.traffic.events == [("mirrored", "agrees")]

    @pytest.mark.parametrize("end", ["drain", "left"])
    def test_after_a_watch(self, world: Any, wire: Any, end: str) -> None:
        health = serving()
        world.use(health=health)
        client = wire.client()
        world.grpc(None, method=WATCH, client=client)
        client.receive(write_request("open"), True)
        if end == "drain":
            health.drain()
        else:
            client.sink.reset_received(ErrorCode.CANCEL, "gone")
        world.use()

    def test_after_keys_were_fetched(self, world: Any, wire: Any) -> None:
        world.verifier.raises = KeysWanted("corp")
        headers = ((b"authorization", b"Bearer good"),)
        world.rest(headers=headers)
        world.verifier.raises = None
        world.refreshes.pop()[1]()
        world.cluster.streams[0].respond()
        assert world.finished[0].status == 200
