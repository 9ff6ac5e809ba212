"""The way of a request, station by station, and what can go wrong at each."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from meshproxy.codec.events import Rejected, ResponseHead
from meshproxy.codec.grpc import parse_timeout
from meshproxy.config.servers import Key
from meshproxy.identity.caller import Caller, Token, Workload
from meshproxy.identity.tokens import KeysWanted, credential
from meshproxy.inference.call import ModelRef, Verb
from meshproxy.proxy.client_side import LOOKS
from meshproxy.proxy.exchange import Happening
from meshproxy.proxy.relay import INFLATING_BODIES
from meshproxy.proxy.snapshot import BodyLimits
from meshproxy.proxy.token_places import TokenPlaces
from meshproxy.refusal import GrpcStatus, Reason, Refusal
from meshproxy.routing.routes import Route, Routes
from meshproxy.telemetry.line_writer import LineWriter
from meshproxy.transport.connect_failures import ConnectError
from meshproxy.transport.connection import BODY_BYTES, READ_BYTES
from meshproxy.transport.reaper import PERIOD
from meshproxy.transport.stream import HeadRefused
from meshproxy.upstream.pool import PoolFull
from tests.test_request_budget import Bench, rest

INTERNAL_ERROR, CANCEL = 0x2, 0x8


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("grün".encode(), b"gr%C3%BCn"),
        (b"\xff\xfe", b"%FF%FE"),
        (b"a%zz% b%C3%BC~", b"a%zz% b%C3%BC~"),
        (b"a\tb", b"a%09b"),
    ],
)
@pytest.mark.parametrize("is_only_trailers", [False, True])
def test_a_grpc_message_goes_on_as_clients_can_read_it(
    world: Any, wire: Any, sent: bytes, expected: bytes, is_only_trailers: bool
) -> None:
    """Escapes stay as they are, whether they are any or not."""
    client = world.grpc(wire.spec(b"open"))
    (server,) = world.cluster.streams
    kind, status = (b"content-type", b"application/grpc"), (b"grpc-status", b"3")
    fields = ((b"other", b"gr\xfcn"), (b"grpc-message", sent))
    if is_only_trailers:
        server.sink.head_received(ResponseHead(0, 200, (kind, status, *fields), end=True))
        answer = client.headers
    else:
        server.sink.head_received(ResponseHead(0, 200, (kind,), end=False))
        server.sink.trailers_received((status, *fields))
        answer = dict(client.trailers)
    assert (answer[b"grpc-message"], answer[b"other"]) == (expected, b"gr\xfcn")


class TestRest:
    def test_a_permitted_call_is_carried(self, world: Any) -> None:
        client = world.rest(headers=((b"accept", b"*/*"),), body=b'{"instances":[1]}')
        (server,) = world.cluster.streams
        assert server.head.target == b"/v1/models/open:predict"
        assert server.head.length == 17
        assert server.head.headers == ((b"accept", b"*/*"),)
        assert (server.body, server.ended) == (b'{"instances":[1]}', True)
        assert client.credited == 17

        server.respond(b"answer", headers=((b"content-type", b"application/json"),))
        assert (client.status, client.body, client.ended) == (200, b"answer", True)
        (exchange,) = world.finished
        assert (exchange.status, exchange.rule, exchange.permit_audits) == (200, "binding", ("watched",))
        assert (exchange.bytes_received, exchange.bytes_sent) == (17, 6)
        assert exchange.asked.verb is Verb.PREDICT
        assert exchange.refusal is None
        assert exchange.upstream == server.address

    def test_a_denied_call_never_reaches_the_server(self, world: Any) -> None:
        client = world.rest(b"/v1/models/closed:predict")
        assert world.cluster.streams == []
        assert client.status == 403
        assert client.headers[b"x-meshproxy-refusal"] == b"permission-denied"
        assert json.loads(client.body) == {"error": "not permitted"}
        assert world.finished[0].refusal.rule == "default-deny"

    def test_the_target_is_rebuilt_from_what_was_authorised(self, world: Any) -> None:
        world.rest(b"/v1/models/op%65n/versions/3:predict")
        for server in world.cluster.streams:  # refused or re-built, never forwarded as it stood
            assert server.head.target == b"/v1/models/open/versions/3:predict"

    def test_a_path_outside_of_the_surface_is_refused(self, world: Any) -> None:
        client = world.rest(b"/V1/models/open:predict")
        assert client.status == 400
        assert world.cluster.streams == []
        assert world.policy.asked == []

    def test_identity_headers_of_the_client_are_dropped(self, world: Any) -> None:
        forged = (
            (b"x-meshproxy-caller", b"spiffe://dev.example/ns/a/sa/root"),
            (b"x_meshproxy_subject", b"root"),
            (b"x.meshproxy.issuer", b"root"),
            (b"x-forwarded-client-cert", b"URI=root"),
            (b"x_forwarded_client_cert", b"URI=root"),
            (b"authorization", b"Bearer good"),
            (b"kept", b"yes"),
        )
        world.rest(headers=forged)
        assert world.cluster.streams[0].head.headers == ((b"kept", b"yes"),)

    def test_a_trace_state_is_forwarded_with_the_trace_it_belongs_to(self, world: Any) -> None:
        states = ((b"tracestate", b"a=1"), (b"accept", b"*/*"), (b"tracestate", b"b=2"))
        world.rest(headers=states, trace=b"theirs")
        (server,) = world.cluster.streams
        assert server.head.trace == b"ours"
        assert server.head.headers == ((b"accept", b"*/*"), (b"tracestate", b"a=1,b=2"))

    @pytest.mark.parametrize("parent", [None, b"invalid"])
    def test_without_a_trace_nothing_is_said_of_one(self, world: Any, parent: bytes | None) -> None:
        """A parent-based sampler behind us would drop what `-00` says, also beside a sampled `b3`."""
        b3 = (b"b3", b"4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1")
        world.rest(headers=(b3, (b"tracestate", b"a=1")), trace=parent)
        (server,) = world.cluster.streams
        assert server.head.trace is None
        assert server.head.headers == (b3,)
        server.respond()
        assert world.finished[0].trace is None

    def test_the_verified_identity_is_handed_on_if_configured(self, world: Any) -> None:
        world.use(forwards_identity=True, forwards_token=True)
        world.rest(headers=((b"x-meshproxy-caller", b"forged"), (b"authorization", b"Bearer good")))
        assert world.cluster.streams[0].head.headers == (
            (b"authorization", b"Bearer good"),
            (b"x-meshproxy-caller", b"spiffe://dev.example/ns/a/sa/alice"),
            (b"x-meshproxy-issuer", b"corp"),
            (b"x-meshproxy-subject", b"alice"),
        )

    @pytest.mark.parametrize("forwards", [False, True])
    def test_a_token_in_a_header_of_its_own(self, world: Any, forwards: bool) -> None:
        asked: list[bytes] = []

        def verify(authorization: bytes, now: float) -> Token:
            asked.append(authorization)
            return Token("iap", "alice", {}, 2e9)

        places = TokenPlaces({b"x-token": "header x-token"}, {})
        world.use(verifier=SimpleNamespace(verify=verify), token_places=places, forwards_token=forwards)
        headers = ((b"x-token", b"a.b.c"), (b"authorization", b"Bearer of-the-gateway"), (b"a", b"b"))
        world.rest(headers=headers)
        assert asked == [credential("header x-token", b"a.b.c")]
        assert world.finished == []
        sent = world.cluster.streams[0].head.headers
        assert sent == (((b"x-token", b"a.b.c"), (b"a", b"b"), headers[1]) if forwards else ((b"a", b"b"),))
        assert world.rest(headers=(*headers, (b"x-token", b"another"))).status == 401
        assert len(asked) == 1

    def test_a_subject_cannot_break_out_of_its_header(self, world: Any) -> None:
        world.verifier.token = msgspec.structs.replace(world.verifier.token, subject="a\r\nx: y\x00ü")
        world.use(forwards_identity=True)
        world.rest(headers=((b"authorization", b"Bearer good"),))
        assert world.cluster.streams[0].head.headers[-1] == (b"x-meshproxy-subject", b"a%0D%0Ax:%20y%00%C3%BC")

    def test_the_server_cannot_send_headers_of_the_sidecar(self, world: Any) -> None:
        client = world.rest()
        world.cluster.streams[0].respond(headers=((b"x-meshproxy-refusal", b"forged"), (b"a", b"b")))
        assert client.headers == {b"a": b"b"}

    def test_a_client_that_waits_for_100_gets_it_once_permitted(self, world: Any) -> None:
        client = world.rest(body=None, length=2, expects_continue=True)
        assert [status for status, _ in client.heads] == [100]
        client.receive(b"{}", True)
        world.cluster.streams[0].sink.head_received(ResponseHead(0, 100, (), end=False))
        world.cluster.streams[0].respond()
        assert [status for status, _ in client.heads] == [100, 200]

    def test_a_client_that_waits_for_100_gets_a_refusal_at_once(self, world: Any) -> None:
        client = world.rest(b"/v1/models/closed:predict", body=None, length=2, expects_continue=True)
        assert [status for status, _ in client.heads] == [403]

    def test_a_refusal_waits_for_the_rest_of_a_short_body(self, world: Any) -> None:
        client = world.rest(b"/v1/models/closed:predict", body=None, length=4)
        client.receive(b"ab", False)
        assert client.heads == []
        client.receive(b"cd", True)
        assert (client.status, client.credited, client.has_stopped) == (403, 4, False)
        assert world.finished[0].bytes_received == 4

    def test_a_refusal_does_not_wait_long(self, world: Any) -> None:
        client = world.rest(b"/v1/models/closed:predict", body=None, length=4)
        world.reaper.sweep(world.loop.now + 2.1)
        assert (client.status, client.has_stopped) == (403, True)

    def test_a_refusal_does_not_wait_for_a_long_body(self, world: Any) -> None:
        client = world.rest(b"/v1/models/closed:predict", body=None, length=100_000)
        assert (client.status, client.has_stopped) == (403, True)
        client.receive(b"late", False)
        assert client.credited == 4

    def test_a_refusal_does_not_wait_for_an_endless_body(self, world: Any) -> None:
        client = world.rest(b"/v1/models/closed:predict", body=None)
        for _ in range(3):
            client.receive(b"x" * 30_000, False)
        assert (client.status, client.has_stopped) == (403, True)


class TestGrpc:
    def test_a_permitted_call_is_carried(self, world: Any, wire: Any) -> None:
        client = world.grpc(wire.spec(b"open") + wire.tensor(10))
        (server,) = world.cluster.streams
        assert server.body == wire.framed(wire.spec(b"open") + wire.tensor(10))
        assert server.ended
        server.respond_grpc()
        assert (client.status, client.body, client.trailers) == (200, b"answer", ((b"grpc-status", b"0"),))
        (exchange,) = world.finished
        assert exchange.grpc_status == GrpcStatus.OK
        assert exchange.forwarded.models == (ModelRef("open", signature="serving_default"),)

    def test_the_answer_of_a_call_without_version_names_it(self, world: Any, wire: Any) -> None:
        """In `model_spec`, behind the outputs; here they are longer than a piece."""
        body = wire.framed(b"\x0a" + wire.varint(300) + bytes(300) + b"\x12\x04\x12\x02\x08\x07")
        client = world.grpc(wire.spec(b"open"))
        (server,) = world.cluster.streams
        server.reader.head_received(ResponseHead(0, 200, ((b"content-type", b"application/grpc"),), end=False))
        for piece in (body[:100], body[100:]):
            server.reader.data_received(piece, len(piece), False)
        server.reader.trailers_received(((b"grpc-status", b"0"),))
        assert client.body == body
        (exchange,) = world.finished
        assert exchange.effective_version == "7"
        assert exchange.forwarded.models[0].version is None

    def test_a_call_that_names_its_version_is_not_looked_up_in_the_answer(self, world: Any, wire: Any) -> None:
        world.grpc(wire.spec(b"open", version=3))
        world.cluster.streams[0].respond_grpc(wire.framed(b"\x12\x04\x12\x02\x08\x07"))
        assert (world.finished[0].effective_version, world.finished[0].forwarded.models[0].version) == ("", "3")

    def test_a_denied_call_is_answered_in_trailers_only(self, world: Any, wire: Any) -> None:
        client = world.grpc(wire.spec(b"closed"))
        assert world.cluster.streams == []
        assert client.status == 200
        assert client.headers[b"grpc-status"] == b"7"
        assert client.headers[b"grpc-message"] == b"not permitted"
        assert client.headers[b"x-meshproxy-refusal"] == b"permission-denied"
        assert client.ended
        assert (world.finished[0].status, world.finished[0].grpc_status) == (200, GrpcStatus.PERMISSION_DENIED)

    def test_nothing_is_forwarded_before_the_model_is_known(self, world: Any, wire: Any) -> None:
        client = world.grpc(None)
        message = wire.framed(wire.tensor(200) + wire.spec(b"open"))
        for at in range(len(message) - 1):
            client.receive(message[at : at + 1], False)
            assert world.cluster.streams == []
            assert client.credited == at + 1  # or the client's window would close before it can say
        client.receive(message[-1:], True)
        assert world.cluster.streams[0].body == message

    def test_a_tensor_streams_behind_its_model(self, world: Any, wire: Any) -> None:
        client = world.grpc(None)
        message = wire.framed(wire.spec(b"open") + wire.tensor(5_000))
        client.receive(message[:100], False)
        assert world.cluster.streams[0].body == message[:100]
        client.receive(message[100:], True)
        assert world.cluster.streams[0].body == message

    @pytest.mark.parametrize("cut", [0, 40, 300, 400])
    def test_a_later_model_that_is_denied_stops_everything(self, world: Any, wire: Any, cut: int) -> None:
        message = wire.framed(wire.spec(b"open") + wire.tensor(300) + wire.spec(b"closed"))
        client = world.grpc(None)
        client.receive(message[:cut], False)
        client.receive(message[cut:], True)
        for server in world.cluster.streams:
            assert len(server.body) < len(message)
            assert not server.ended
            assert server.reset_code == CANCEL
        assert client.headers[b"grpc-status"] == b"7"
        assert len(world.finished) == 1

    def test_a_later_model_that_is_served_elsewhere_is_refused(self, world: Any, wire: Any) -> None:
        message = wire.framed(wire.spec(b"open") + wire.tensor(300) + wire.spec(b"open-elsewhere"))
        client = world.grpc(None)
        client.receive(message[:50], False)
        client.receive(message[50:], True)
        assert client.headers[b"x-meshproxy-refusal"] == b"model-changed"
        assert world.cluster.streams[0].reset_code == CANCEL

    def test_a_later_model_of_the_same_route_is_decided_on_again(self, world: Any, wire: Any) -> None:
        message = wire.framed(wire.spec(b"open") + wire.tensor(300) + wire.spec(b"open2"))
        client = world.grpc(None)
        client.receive(message[:50], False)
        client.receive(message[50:], True)
        assert world.cluster.streams[0].body == message
        assert [call.models[0].name for _, call in world.policy.asked] == ["open", "open2"]

    @pytest.mark.parametrize("message", [b"", b"\x0a", b"\x0a\x05abc", b"\x0b", b"\x8a\x80\x00\x00"])
    def test_a_broken_message_never_reaches_the_server(self, world: Any, message: bytes) -> None:
        client = world.grpc(message)
        assert world.cluster.streams == []
        assert client.headers[b"grpc-status"] == b"3"

    def test_a_body_without_a_message_is_refused(self, world: Any) -> None:
        client = world.grpc(None)
        client.receive(b"", True)
        assert client.headers[b"grpc-status"] == b"3"

    def test_what_is_held_for_one_request_is_limited(self, world: Any, wire: Any) -> None:
        client = world.grpc(None)
        client.receive(wire.framed(wire.tensor(5_000))[:1_001], False)
        assert client.headers[b"x-meshproxy-refusal"] == b"scan-limit"
        assert world.limits_hit == ["scan_buffer_bytes"]
        assert world.pipeline.scan_buffer.total == 0

    def test_what_is_held_for_all_is_limited(self, world: Any, wire: Any) -> None:
        clients = [world.grpc(None) for _ in range(2)]
        for client in clients:
            client.receive(wire.framed(wire.tensor(5_000))[:800], False)
        assert clients[0].headers[b"grpc-status"] == b"8"  # who has not come to the point for longest
        assert clients[1].heads == []
        assert world.limits_hit == ["scan_buffer_total_bytes"]
        assert world.pipeline.scan_buffer.total == 800
        clients[1].sink.reset_received(CANCEL, "gone")
        assert world.pipeline.scan_buffer.total == 0

    def test_an_unknown_method_is_refused(self, world: Any) -> None:
        client = world.grpc(None, method=b"/tensorflow.serving.SessionService/SessionRun")
        assert client.headers[b"grpc-status"] == b"7"
        assert client.has_stopped

    def test_a_method_without_a_model_is_decided_by_its_head(self, world: Any) -> None:
        world.grpc(b"", method=b"/grpc.health.v1.Health/Check")
        assert world.policy.asked[0][1].models == ()
        assert world.cluster.streams[0].body == b"\0\0\0\0\0"

    def test_grpc_is_not_spoken_over_http_1(self, world: Any, wire: Any) -> None:
        client = world.grpc(None, client=wire.client("HTTP/1.1"))
        assert client.headers[b"grpc-status"] == b"12"

    def test_the_status_of_a_trailers_only_answer_is_read(self, world: Any, wire: Any) -> None:
        client = world.grpc(wire.spec(b"open"))
        world.cluster.streams[0].sink.head_received(ResponseHead(0, 200, ((b"grpc-status", b"5"),), end=True))
        assert client.ended
        assert world.finished[0].grpc_status == GrpcStatus.NOT_FOUND

    def test_trailers_of_a_request_are_its_end(self, world: Any, wire: Any) -> None:
        client = world.grpc(None)
        message = wire.framed(wire.spec(b"open"))
        client.receive(message, False)
        client.sink.trailers_received(((b"a", b"b"),))
        assert world.cluster.streams[0].ended


class TestIdentity:
    def test_the_caller_is_workload_and_token(self, world: Any) -> None:
        client = world.rest(headers=((b"authorization", b"Bearer good"),))
        caller, _ = world.policy.asked[0]
        assert caller == Caller(client.info.peer, world.verifier.token)
        world.rest(headers=((b"authorization", b"Bearer good"),), client=client)
        assert world.policy.asked[1][0] is caller

    def test_another_token_on_the_same_connection_is_another_caller(self, world: Any) -> None:
        client = world.rest(headers=((b"authorization", b"Bearer good"),))
        world.rest(client=client)
        assert [caller.token for caller, _ in world.policy.asked] == [world.verifier.token, None]

    @pytest.mark.parametrize(
        "headers",
        [
            ((b"authorization", b"Bearer bad"),),
            ((b"authorization", b"Bearer good"), (b"authorization", b"Bearer good")),
        ],
        ids=["one that is not good", "two of them"],
    )
    def test_a_bad_token_is_refused_whatever_the_certificate_says(self, world: Any, headers: Any) -> None:
        client = world.rest(headers=headers)
        assert client.status == 401
        assert world.policy.asked == []
        assert world.finished[0].caller == Caller(client.info.peer)

    def test_a_certificate_that_expires_on_a_long_connection_is_refused(self, world: Any, wire: Any) -> None:
        """And the connection is given up, or a client with a fresh certificate would stay refused."""
        old = Workload("spiffe://dev.example/ns/a/sa/old", "dev.example", "a", "old", 1_699_999_999.0)
        client = world.rest(client=wire.client("HTTP/1.1", old))
        assert client.status == 401
        assert client.closes_connection
        assert world.policy.asked == []

    def test_other_refusals_leave_the_connection_open(self, world: Any) -> None:
        client = world.rest(headers=((b"authorization", b"Bearer bad"),))
        assert client.status == 401
        assert not client.closes_connection

    def test_an_unknown_key_is_fetched_once_while_the_body_waits(self, world: Any, wire: Any) -> None:
        world.verifier.raises = KeysWanted("corp")
        client = world.grpc(None, headers=((b"authorization", b"Bearer good"),))
        message = wire.framed(wire.spec(b"open") + wire.tensor(50))
        client.receive(message[:30], False)
        client.receive(message[30:], True)
        assert world.cluster.streams == []
        assert client.credited == 0
        ((issuer, then),) = world.refreshes
        world.verifier.raises = None
        then()
        assert issuer == "corp"
        assert world.cluster.streams[0].body == message
        assert client.credited == len(message)

    def test_a_fetch_that_had_begun_before_the_key_was_there_is_followed_by_one_more(
        self, world: Any, wire: Any
    ) -> None:
        world.verifier.raises = KeysWanted("corp")
        client = world.grpc(None, headers=((b"authorization", b"Bearer good"),))
        message = wire.framed(wire.spec(b"open") + wire.tensor(50))
        client.receive(message[:30], False)
        world.refreshes[0][1]()
        client.receive(message[30:], True)
        assert world.cluster.streams == []
        assert client.credited == 0
        world.verifier.raises = None
        world.refreshes[1][1]()
        assert world.cluster.streams[0].body == message
        assert client.credited == len(message)

    def test_a_key_that_stays_unknown_is_refused(self, world: Any) -> None:
        world.verifier.raises = KeysWanted("corp")
        client = world.rest(headers=((b"authorization", b"Bearer good"),))
        world.verifier.raises = Refusal(Reason.UNAUTHENTICATED, "no such key", challenge="Bearer")
        world.refreshes[0][1]()
        assert client.status == 401
        assert client.headers[b"www-authenticate"] == b"Bearer"

    def test_keys_that_come_too_late_change_nothing(self, world: Any) -> None:
        world.verifier.raises = KeysWanted("corp")
        client = world.rest(headers=((b"authorization", b"Bearer good"),))
        client.sink.reset_received(CANCEL, "gone")
        world.verifier.raises = None
        world.refreshes[0][1]()
        assert world.cluster.streams == []
        assert len(world.finished) == 1


class TestUpstream:
    def test_the_body_waits_for_a_connection(self, world: Any) -> None:
        world.cluster.is_ready = False
        client = world.rest(body=b"body")
        assert client.credited == 0
        world.cluster.give(world.cluster.waiting.pop())
        assert world.cluster.streams[0].body == b"body"
        assert client.credited == 4

    @pytest.mark.parametrize(
        ("error", "status", "reason", "flags"),
        [
            (ConnectError("refused"), 503, b"connect-failed", "UF"),
            (PoolFull("full"), 503, b"overloaded", "UO"),
        ],
    )
    def test_no_connection_is_answered(self, world: Any, error: Any, status: int, reason: bytes, flags: str) -> None:
        world.cluster.error = error
        client = world.rest()
        world.loop.advance(0.025)  # there is no other endpoint, so this one is tried again after a moment
        assert client.status == status
        assert client.headers[b"x-meshproxy-refusal"] == reason
        assert client.headers[b"retry-after"] == b"1"
        assert str(world.finished[0].flags) == flags

    def test_a_client_that_leaves_waits_no_longer(self, world: Any) -> None:
        world.cluster.is_ready = False
        client = world.rest()
        client.sink.reset_received(CANCEL, "gone")
        assert world.cluster.waiting == []
        assert str(world.finished[0].flags) == "DC"

    def test_a_client_that_leaves_cancels_the_call(self, world: Any) -> None:
        client = world.rest()
        client.sink.reset_received(CANCEL, "gone")
        assert world.cluster.streams[0].reset_code == CANCEL
        assert len(world.finished) == 1

    def test_a_slow_server_holds_the_client(self, world: Any) -> None:
        client = world.rest(body=None, length=6)
        (server,) = world.cluster.streams
        server.is_full = True
        client.receive(b"abc", False)
        assert client.credited == 0
        server.is_full = False
        server.sink.drained()
        assert client.credited == 3
        client.receive(b"def", True)
        assert client.credited == 6

    def test_a_slow_client_holds_the_server(self, world: Any) -> None:
        client = world.rest()
        (server,) = world.cluster.streams
        client.is_full = True
        server.respond(b"answer")
        assert server.credited == 0
        assert world.finished == []
        client.sink.drained()
        assert server.credited == 0  # the stream is over: what was owed is forgiven by its driver
        assert len(world.finished) == 1

    def test_a_slow_client_holds_a_server_that_goes_on(self, world: Any) -> None:
        client = world.rest()
        (server,) = world.cluster.streams
        client.is_full = True
        server.sink.head_received(ResponseHead(0, 200, (), end=False, length=20))
        server.sink.data_received(b"answer", 6, False)
        assert server.credited == 0
        client.sink.drained()
        assert server.credited == 6

    def test_trailers_behind_a_held_piece_finish_when_it_has_left(self, world: Any, wire: Any) -> None:
        client = world.grpc(wire.spec(b"open"))
        client.is_full = True
        world.cluster.streams[0].respond_grpc()
        assert world.finished == []
        client.sink.drained()
        assert len(world.finished) == 1

    def test_an_answer_before_the_requests_end_stops_both(self, world: Any) -> None:
        client = world.rest(body=None, length=10)
        client.receive(b"abc", False)
        (server,) = world.cluster.streams
        server.respond(status=400)
        assert (client.status, client.has_stopped, server.has_stopped) == (400, True, True)
        assert len(world.finished) == 1

    @pytest.mark.parametrize(("code", "reason"), [(0x8, b"upstream-reset"), (0x1, b"upstream-protocol")])
    def test_a_break_before_the_answer_is_answered(self, world: Any, code: int, reason: bytes) -> None:
        client = world.rest()
        world.cluster.streams[0].sink.reset_received(code, "gone")
        assert (client.status, client.headers[b"x-meshproxy-refusal"]) == (502, reason)
        assert world.cluster.streams[0].reset_code is None

    def test_a_break_within_the_answer_is_never_a_clean_end(self, world: Any) -> None:
        client = world.rest()
        (server,) = world.cluster.streams
        server.sink.head_received(ResponseHead(0, 200, (), end=False, length=10))
        server.sink.data_received(b"half", 4, False)
        server.sink.reset_received(CANCEL, "gone")
        assert not client.ended
        assert client.reset_code == INTERNAL_ERROR, "CANCEL would say that the client has given it up"
        assert len(world.finished) == 1


class TestServers:
    """Calls of an application: which server does it mean?"""

    @pytest.fixture
    def find(self, world: Any) -> Any:
        """What is looked up, and what is found."""
        asked: list[Any] = []
        found: list[str | None] = []

        def find(*what: Any) -> str | None:
            asked.append(what)
            return found.pop(0) if found else None

        world.use(routes=Routes(Route("", None)), servers=SimpleNamespace(find=find))
        return SimpleNamespace(asked=asked, found=found)

    def test_the_one_that_is_found(self, world: Any, find: Any) -> None:
        find.found.append("other")
        world.rest(headers=((b"x-model-server", b"other"), (b"accept", b"*/*")))
        assert find.asked == [(b"host", b"other", "")]
        (server,) = world.other.streams
        assert b"x-model-server" not in dict(server.head.headers)

    def test_one_that_there_is_not(self, world: Any, find: Any) -> None:
        find.found.append("")
        client = world.rest()
        assert (client.status, client.headers[b"x-meshproxy-refusal"]) == (404, b"no-route")
        assert str(world.finished[0].flags) == "NR"
        world.assert_let_go()

    def test_nothing_says_which(self, world: Any, wire: Any, find: Any) -> None:
        client = world.grpc(wire.spec(b"open"))
        assert client.headers[b"grpc-status"] == b"12"
        world.assert_let_go()

    def test_the_default_if_there_is_one(self, world: Any, find: Any) -> None:
        world.pipeline.snapshot = msgspec.structs.replace(world.pipeline.snapshot, server="main")
        world.rest()
        assert len(world.cluster.streams) == 1


class TestKeys:
    """What endpoints are chosen by, where the same request is to go to the same one."""

    def keys(self, world: Any) -> list[int]:
        return [key for _, key in world.cluster.picked]

    def test_a_header(self, world: Any) -> None:
        world.cluster.key = Key(by="header", header="x-user")
        for user in (b"1", b"2", b"1"):
            world.rest(headers=((b"x-user", user),))
        first, second, third = self.keys(world)
        assert first == third != second

    def test_the_client_id_of_a_message(self, world: Any, wire: Any) -> None:
        world.cluster.key = Key(by="client-id")
        for client in (b"1", b"2", b"1", None):
            field = b"" if client is None else b"\x32\x01" + client
            world.grpc(wire.spec(b"open") + wire.tensor(3) + field)
        first, second, third, none = self.keys(world)
        assert first == third
        assert len({first, second, none}) == 3
        world.rest()
        assert self.keys(world)[-1] == none  # the caller, where there is none

    def test_also_if_the_message_came_in_pieces(self, world: Any, wire: Any) -> None:
        world.cluster.key = Key(by="client-id")
        message = wire.framed(b"\x32\x011" + wire.spec(b"open"))
        world.grpc(b"\x32\x011" + wire.spec(b"open"))
        client = world.grpc(None)
        client.receive(message[:8], False)
        client.receive(message[8:], True)
        first, second = self.keys(world)
        assert first == second

    def test_the_caller_by_token_workload_or_address(self, world: Any, wire: Any) -> None:
        world.cluster.key = Key()
        world.rest()
        world.rest(headers=((b"authorization", b"Bearer good"),))
        world.rest(client=wire.client("HTTP/1.1", None))
        world.rest()
        workload, token, address, again = self.keys(world)
        assert workload == again
        assert len({workload, token, address}) == 3

    def test_none_where_it_does_not_matter(self, world: Any) -> None:
        world.rest()
        assert self.keys(world) == [None]


class TestTime:
    def test_the_callers_deadline_counts(self, world: Any, wire: Any) -> None:
        client = world.grpc(wire.spec(b"open"), headers=((b"grpc-timeout", b"500m"),))
        world.loop.advance(0.4)
        assert client.heads == []
        world.loop.advance(0.2)
        assert client.headers[b"grpc-status"] == b"4"
        assert world.cluster.streams[0].reset_code == CANCEL
        assert parse_timeout(dict(world.cluster.streams[0].head.headers)[b"grpc-timeout"]) == 0.5

    @pytest.mark.parametrize(("seconds", "verdict"), [(0.8, "cancelled"), (1.0, "timeout")])
    def test_an_endpoint_that_had_long_enough_is_to_blame(
        self, world: Any, wire: Any, seconds: float, verdict: str
    ) -> None:
        world.grpc(wire.spec(b"open"), headers=((b"grpc-timeout", b"%dm" % (seconds * 1000)),))
        world.wait(seconds + 0.01)
        assert world.cluster.reports[-1] == verdict

    @pytest.mark.parametrize(("left", "verdict"), [(0.94, "cancelled"), (0.96, "timeout"), (0.99, "timeout")])
    def test_so_is_one_whose_caller_left_when_its_time_was_up(
        self, world: Any, wire: Any, left: float, verdict: str
    ) -> None:
        """gRPC clients reset a call by a clock of their own, which is ahead of ours."""
        client = world.grpc(wire.spec(b"open"), headers=((b"grpc-timeout", b"1S"),))
        world.wait(left)
        client.sink.reset_received(CANCEL, "gone")
        assert world.cluster.reports[-1] == verdict
        assert str(world.finished[0].flags) == "DC"

    @pytest.mark.parametrize("leaves", [False, True])
    @pytest.mark.parametrize(("rest", "verdict"), [(None, "cancelled"), (2.4, "cancelled"), (1.0, "timeout")])
    def test_a_caller_that_keeps_back_a_part_of_its_request_is_to_blame_itself(
        self, world: Any, wire: Any, rest: float | None, verdict: str, leaves: bool
    ) -> None:
        """The endpoint waits for it. `rest`: when it comes."""
        client, began = world.grpc(None, headers=((b"grpc-timeout", b"3S"),)), world.loop.now
        body = wire.framed(wire.spec(b"open") + wire.tensor(100))
        client.receive(body[:50], False)
        assert world.cluster.streams[0].body == body[:50]
        world.wait(rest or 2.0)
        if rest is not None:
            client.receive(body[50:], True)
        world.wait(began + (2.95 if leaves else 3.1) - world.loop.now)
        if leaves:
            client.sink.reset_received(CANCEL, "gone")
        assert world.cluster.reports[-1] == verdict

    def test_an_endpoint_that_does_not_read_is_to_blame(self, world: Any, wire: Any) -> None:
        client = world.grpc(None, headers=((b"grpc-timeout", b"3S"),))
        body = wire.framed(wire.spec(b"open") + wire.tensor(100))
        client.receive(body[:50], False)
        world.cluster.streams[0].is_full = True
        client.receive(body[50:100], False)
        world.wait(3.1)
        assert world.cluster.reports[-1] == "timeout"

    def test_a_caller_that_leaves_for_another_reason_blames_nobody(self, world: Any, wire: Any) -> None:
        client = world.grpc(wire.spec(b"open"))
        world.wait(9)
        client.sink.reset_received(CANCEL, "gone")
        assert world.cluster.reports[-1] == "cancelled"

    def test_one_that_has_begun_to_answer_is_not(self, world: Any, wire: Any) -> None:
        world.grpc(wire.spec(b"open"), headers=((b"grpc-timeout", b"2S"),))
        sink = world.cluster.streams[0].sink
        sink.head_received(ResponseHead(0, 200, (), end=False))
        sink.data_received(b"\0\0\0\0\5", 5, False)
        world.wait(2.1)
        assert world.cluster.reports[-1] == "cancelled"

    def test_the_routes_deadline_counts(self, world: Any) -> None:
        client = world.rest(b"/v1/models/open-quick:predict")
        world.wait(2.1)
        assert client.status == 504
        assert str(world.finished[0].flags) == "UT"

    def test_the_shorter_deadline_counts(self, world: Any, wire: Any) -> None:
        client = world.grpc(wire.spec(b"open-quick"), headers=((b"grpc-timeout", b"60S"),))
        world.wait(2.1)
        assert client.headers[b"grpc-status"] == b"4"

    def test_a_deadline_that_is_far_off_has_no_timer_and_is_exact(self, world: Any, wire: Any) -> None:
        begun = world.loop.now
        client = world.grpc(wire.spec(b"open"), headers=((b"grpc-timeout", b"30001m"),))
        world.wait(29)
        assert world.loop.timers == []
        world.wait(1)
        (timer,) = world.loop.timers
        assert timer.when() == begun + 30.001
        assert client.heads == []
        world.wait(0.25)
        assert client.headers[b"grpc-status"] == b"4"
        world.assert_let_go()

    def test_a_deadline_that_is_near_is_no_check_of_progress(self, world: Any) -> None:
        stall = world.snapshot.limits.stall
        milliseconds = int(stall * 1000) - 400
        client = world.rest(headers=((b"x-envoy-expected-rq-timeout-ms", b"%d" % milliseconds),), body=None, length=10)
        world.wait(stall - 0.5)
        assert client.heads == []
        world.wait(3)  # and 2 s for the rest of the request
        assert world.limits_hit == []
        assert client.status == 504
        assert str(world.finished[0].flags) == "UT"

    def test_a_shorter_deadline_that_comes_later_replaces_the_timer(self, world: Any, wire: Any) -> None:
        world.serve(timeout=0.3)
        world.grpc(wire.spec(b"open"), headers=((b"grpc-timeout", b"400m"),))
        assert [timer.is_cancelled for timer in world.loop.timers] == [True, False]
        world.wait(0.4)
        world.assert_let_go()

    def test_an_answer_in_time_ends_the_timer(self, world: Any) -> None:
        client = world.rest(b"/v1/models/open-quick:predict")
        world.cluster.streams[0].respond()
        world.loop.advance(3)
        assert client.status == 200
        assert len(world.finished) == 1

    def test_a_body_that_stops_coming_is_given_up(self, world: Any) -> None:
        client = world.rest(body=None, length=10)
        stall = world.snapshot.limits.stall
        world.wait(stall - 1)
        client.receive(b"abc", False)
        world.wait(stall - 1)
        assert client.heads == []
        world.wait(1 + stall / LOOKS + PERIOD)
        assert client.status == 408
        assert world.limits_hit == ["body_stall_time"]

    def test_a_client_that_does_not_read_is_given_up(self, world: Any) -> None:
        client = world.rest()
        client.is_full = True
        world.cluster.streams[0].respond(b"answer")
        for _ in range(2):
            world.loop.advance(world.snapshot.limits.stall + 0.1)
            world.reaper.sweep(world.loop.now)
        assert client.reset_code == CANCEL
        (exchange,) = world.finished
        assert str(exchange.flags) == "DT"
        assert [note[1:] for note in exchange.notes] == [(Happening.LIMIT, (("limit", "body_stall_time"),))]

    def test_a_model_may_think(self, world: Any) -> None:
        client = world.rest()
        for _ in range(5):
            world.loop.advance(world.snapshot.limits.stall + 0.1)
            world.reaper.sweep(world.loop.now)
        world.cluster.streams[0].respond()
        assert client.status == 200

    def test_the_routes_deadline_counts_from_the_head(self, world: Any, wire: Any) -> None:
        world.serve(timeout=2.0)
        client = world.grpc(None)
        world.wait(1.5)
        client.receive(wire.framed(wire.spec(b"open")), True)
        world.wait(0.5)
        assert client.headers[b"grpc-status"] == b"4"
        world.assert_let_go()

    def test_only_what_is_left_of_the_deadline_is_forwarded(self, world: Any, wire: Any) -> None:
        world.cluster.is_ready = False
        world.grpc(wire.spec(b"open"), headers=((b"grpc-timeout", b"10S"),))
        world.rest(headers=((b"x-envoy-expected-rq-timeout-ms", b"10000"),))
        world.wait(4)
        for waiter in list(world.cluster.waiting):
            world.cluster.give(waiter)
        grpc, rest = (dict(server.head.headers) for server in world.cluster.streams)
        assert grpc[b"grpc-timeout"] == b"6000m"
        assert rest[b"x-envoy-expected-rq-timeout-ms"] == b"6000"

    def test_a_refusal_that_waits_for_the_rest_is_not_late(self, world: Any) -> None:
        world.rest(
            b"/v1/models/closed:predict",
            headers=((b"x-envoy-expected-rq-timeout-ms", b"1000"),),
            body=None,
            length=4,
        )
        world.wait(1.5)
        world.wait(1)
        assert [str(exchange.flags) for exchange in world.finished] == [""]

    def test_an_answer_that_stops_coming_is_broken_off(self, world: Any) -> None:
        cluster = world.serve(idle_timeout=2.0)
        client = world.rest()
        server = cluster.streams[0]
        server.sink.head_received(ResponseHead(0, 200, (), end=False))
        for _ in range(3):
            world.wait(1.5)
            server.sink.data_received(b"piece", 5, False)
        world.wait(1.9)
        assert client.reset_code is None
        world.wait(2.7)
        assert client.reset_code == CANCEL
        assert (server.reset_code, str(world.finished[0].flags)) == (CANCEL, "SI")
        assert cluster.reports == ["begin open", "timeout"]
        world.assert_let_go()

    def test_also_if_nothing_followed_its_head(self, world: Any) -> None:
        cluster = world.serve(idle_timeout=2.0)
        client = world.rest()
        cluster.streams[0].sink.head_received(ResponseHead(0, 200, (), end=False))
        world.wait(2.1)
        assert client.reset_code == CANCEL

    def test_a_slow_client_has_its_own_time(self, world: Any) -> None:
        """The model server cannot go on while the client does not take what there is."""
        cluster = world.serve(idle_timeout=2.0)
        client = world.rest()
        client.is_full = True
        cluster.streams[0].sink.head_received(ResponseHead(0, 200, (), end=False))
        cluster.streams[0].sink.data_received(b"piece", 5, False)
        for _ in range(5):
            world.wait(2.1)
        assert client.reset_code is None
        for _ in range(15):
            world.wait(2.1)
        assert client.reset_code == CANCEL
        assert str(world.finished[0].flags) == "DT"
        world.assert_let_go()

    def test_a_model_may_think_however_short_the_time_between_pieces(self, world: Any) -> None:
        cluster = world.serve(idle_timeout=2.0)
        client = world.rest()
        for _ in range(5):
            world.wait(20)
        assert client.reset_code is None
        cluster.streams[0].respond()
        assert client.status == 200


class EarlyHead:
    """A gRPC call whose request goes on, behind a head of its answer or before that."""

    def __init__(self, world: Any, wire: Any, has_head: bool, *, timeout: bytes = b"") -> None:
        self.world, self.wire = world, wire
        self.began = world.loop.now
        self.client = world.grpc(None, headers=((b"grpc-timeout", timeout),) if timeout else ())
        self.client.receive(wire.framed(wire.spec(b"open")), False)
        (self.server,) = world.cluster.streams
        world.wait(0.5)
        if has_head:
            self.server.reader.head_received(ResponseHead(0, 200, ((b"x-session", b"7"),), end=False))

    def pass_time_until(self, second: float) -> None:
        self.world.wait(self.began + second - self.world.loop.now)

    def send(self, model: bytes) -> None:
        self.client.receive(self.wire.framed(self.wire.spec(model)), False)


def ended_and(happens: Callable[[EarlyHead], object]) -> Callable[[EarlyHead], None]:
    """The same once the request has ended."""

    def happen(call: EarlyHead) -> None:
        call.world.wait(1)
        call.client.receive(b"", True)
        happens(call)

    return happen


def stop_reading(call: EarlyHead) -> None:
    call.server.is_full = True
    call.client.receive(b"\0", False)
    call.pass_time_until(3.1)


def deadline(call: EarlyHead) -> None:
    call.pass_time_until(3.1)


def leave(call: EarlyHead) -> None:
    call.client.sink.reset_received(CANCEL, "gone")


def leave_at_the_deadline(call: EarlyHead) -> None:
    call.pass_time_until(2.95)
    leave(call)


def stall(call: EarlyHead) -> None:
    limit = call.world.snapshot.limits.stall
    call.pass_time_until(limit * (1 + 2 / LOOKS) + PERIOD)


HAPPENINGS: dict[str, tuple[Callable[[EarlyHead], object], str, str, str]] = {
    # what happens: how, what the client is told, the record's flags, the endpoint's blame
    "a denied model": (lambda call: call.send(b"closed"), "7 permission-denied", "", "cancelled"),
    "a message that cannot be read": (
        lambda call: call.client.receive(call.wire.framed(b"\xff" * 9), False),
        *("3 malformed-message", "", "cancelled"),
    ),
    "too long a body": (
        lambda call: call.client.sink.rejected(Rejected(1, 413, "too long", "body_bytes")),
        *("8 body-too-large", "", "cancelled"),
    ),
    "a request that is reset by the codec": (
        lambda call: call.client.sink.rejected(Rejected(1, 400, "bad", is_reset=True)),
        *("", "DPE", "cancelled"),
    ),
    "a body that stops coming": (stall, "1 request-timeout", "", "cancelled"),
    "a deadline": (deadline, "4 deadline-exceeded", "UT", "cancelled"),
    "a deadline behind the request": (ended_and(deadline), "4 deadline-exceeded", "UT", "timeout"),
    "a deadline of an endpoint that does not read": (stop_reading, "4 deadline-exceeded", "UT", "timeout"),
    "a client that leaves": (leave, "", "DC", "cancelled"),
    "a client that leaves behind its request": (ended_and(leave), "", "DC", "cancelled"),
    "a client that leaves at its deadline": (leave_at_the_deadline, "", "DC", "cancelled"),
    "a client that leaves then behind its request": (ended_and(leave_at_the_deadline), "", "DC", "timeout"),
    "a server that resets": (
        lambda call: call.server.reader.reset_received(INTERNAL_ERROR, "broken"),
        *("14 upstream-reset", "UC", "reset"),
    ),
    "a connection that is lost": (
        ended_and(lambda call: call.server.reader.reset_received(CANCEL, "the connection was lost")),
        *("14 upstream-reset", "UC", "reset"),
    ),
    "a server that breaks the protocol": (
        lambda call: call.server.reader.reset_received(0x1, "malformed"),
        *("13 upstream-protocol", "UPE", "reset"),
    ),
    "a defect": (lambda call: call.client.sink.crashed(RuntimeError("a defect")), "13 internal", "", "cancelled"),
}


class TestAHeadThatComesEarly:
    """That of a gRPC response is no answer: what happens behind it is told, recorded and blamed as if it had not come,
    in trailers."""

    @pytest.mark.parametrize("has_head", [False, True])
    @pytest.mark.parametrize("what", HAPPENINGS)
    def test_whatever_happens_is_told_as_without_it(self, world: Any, wire: Any, what: str, has_head: bool) -> None:
        happen, told, flags, blame = HAPPENINGS[what]
        is_late = "deadline" in what or "then" in what
        call = EarlyHead(world, wire, has_head, timeout=b"3S" if is_late else b"")
        client = call.client
        happen(call)
        (exchange,) = world.finished
        assert (str(exchange.flags), world.cluster.reports) == (flags, ["begin open", blame])
        assert (exchange.first_byte, exchange.bytes_sent, client.body) == (0.0, 0, b"")
        assert len(world.cluster.streams) == 1
        if has_head:
            assert client.heads[0] == (200, {b"x-session": b"7"})
        if told:
            status, refusal = told.split()
            said = dict(client.trailers) if has_head else client.headers
            assert len(client.heads) == 1
            assert (said[b"grpc-status"], said[b"x-meshproxy-refusal"]) == (status.encode(), refusal.encode())
            assert (b"content-type" in said) is not has_head
            assert (client.ended, client.reset_code) == (True, None)
            assert client.has_stopped is not exchange.request_ended
            assert (exchange.status, exchange.grpc_status) == (200, int(status))
            assert exchange.refusal.reason.label == refusal
        else:
            assert (client.ended, client.trailers) == (False, None)
            assert (exchange.status, exchange.grpc_status) == (200 if has_head else 0, None)
        world.assert_let_go()

    @pytest.mark.parametrize(
        ("what", "blame", "code"),
        [
            ("a denied model", "cancelled", INTERNAL_ERROR),
            ("too long a body", "cancelled", INTERNAL_ERROR),
            ("a deadline", "cancelled", INTERNAL_ERROR),
            ("a deadline behind the request", "cancelled", INTERNAL_ERROR),
            ("a client that leaves then behind its request", "cancelled", CANCEL),
            ("a server that resets", "reset", INTERNAL_ERROR),
            ("a server that breaks the protocol", "reset", 0x1),
            ("a defect", "cancelled", INTERNAL_ERROR),
        ],
    )
    def test_behind_a_message_there_is_only_a_break(
        self, world: Any, wire: Any, what: str, blame: str, code: int
    ) -> None:
        is_late = "deadline" in what or "then" in what
        call = EarlyHead(world, wire, True, timeout=b"3S" if is_late else b"")
        call.server.reader.data_received(b"\0", 1, False)
        HAPPENINGS[what][0](call)
        (exchange,) = world.finished
        assert (call.client.reset_code, call.client.trailers) == (code, None)
        assert (exchange.grpc_status, exchange.first_byte) == (None, call.began + 0.5)
        assert world.cluster.reports == ["begin open", blame]
        world.assert_let_go()

    def test_a_client_that_stops_behind_a_message_waits_for_the_next(self, world: Any, wire: Any) -> None:
        call = EarlyHead(world, wire, True)
        call.server.reader.data_received(b"\0", 1, False)
        stall(call)
        stall(call)
        assert world.finished == []

    @pytest.mark.parametrize("passes", [False, True])
    def test_the_head_gives_a_client_no_more_time(self, world: Any, wire: Any, passes: bool) -> None:
        """Also where the route limits the time between pieces."""
        world.serve(idle_timeout=100.0)
        call, limit = EarlyHead(world, wire, False), world.snapshot.limits.stall
        call.pass_time_until(limit - 1)
        if passes:
            call.server.reader.head_received(ResponseHead(0, 200, (), end=False))
        call.pass_time_until(limit - 0.1)
        assert world.finished == []
        stall(call)
        assert world.limits_hit == ["body_stall_time"]
        assert call.client.ended

    def test_the_time_between_pieces_begins_with_the_first(self, world: Any, wire: Any) -> None:
        world.serve(idle_timeout=2.0)
        call = EarlyHead(world, wire, True)
        ended_and(lambda call: call.pass_time_until(20))(call)
        assert world.finished == []
        call.server.reader.data_received(b"\0", 1, False)
        call.pass_time_until(21.9)
        assert world.finished == []
        call.pass_time_until(22.5)
        assert (call.client.reset_code, str(world.finished[0].flags)) == (CANCEL, "SI")
        assert world.cluster.reports == ["begin open", "timeout"]
        world.assert_let_go()

    @pytest.mark.parametrize(("reads", "blame"), [(True, "cancelled"), (False, "timeout")])
    def test_a_response_that_stops_while_the_request_goes_on(
        self, world: Any, wire: Any, reads: bool, blame: str
    ) -> None:
        """It may wait for the client, unless it does not read."""
        world.serve(idle_timeout=2.0)
        call = EarlyHead(world, wire, True)
        call.server.reader.data_received(b"\0", 1, False)
        call.server.is_full = not reads
        call.send(b"open")
        call.pass_time_until(3.5)
        assert (call.client.reset_code, str(world.finished[0].flags)) == (CANCEL, "SI")
        assert world.cluster.reports == ["begin open", blame]

    def test_a_gateway_that_answers_in_http_is_broken_off(self, world: Any, wire: Any) -> None:
        """Its head is no gRPC response, which trailers would end."""
        call = EarlyHead(world, wire, False)
        call.server.reader.head_received(ResponseHead(0, 503, (), end=False))
        call.send(b"closed")
        assert (call.client.reset_code, call.client.trailers) == (INTERNAL_ERROR, None)
        assert world.cluster.reports == ["begin open", "gateway-error"]

    @pytest.mark.parametrize("is_sidecar", [False, True])
    def test_what_another_sidecar_refuses_is_recorded_as_that(self, world: Any, wire: Any, is_sidecar: bool) -> None:
        world.cluster.all[0].is_sidecar = is_sidecar
        call = EarlyHead(world, wire, True)
        status, refusal = (b"grpc-status", b"7"), (b"x-meshproxy-refusal", b"permission-denied")
        call.server.reader.trailers_received((status, refusal))
        (exchange,) = world.finished
        assert call.client.trailers == ((status, refusal) if is_sidecar else (status,))
        assert (exchange.is_refused_remotely, exchange.grpc_status) == (is_sidecar, 7)
        assert world.cluster.reports == ["begin open", "succeeded"]  # nobody blames it for a denied caller


def test_a_body_that_breaks_the_protocol_is_answered(world: Any) -> None:
    client = world.rest(body=None)
    client.sink.rejected(Rejected(1, 400, "a chunk size is malformed"))
    assert client.status == 400
    assert json.loads(client.body) == {"error": "Bad request: a chunk size is malformed."}
    assert world.cluster.streams[0].reset_code == CANCEL


def test_a_body_that_breaks_the_protocol_behind_the_answer_breaks_it_off(world: Any) -> None:
    client = world.rest(body=None)
    world.cluster.streams[0].sink.head_received(ResponseHead(0, 200, (), end=False, length=20))
    client.sink.rejected(Rejected(1, 400, "a chunk size is malformed"))
    assert client.reset_code is not None
    assert not client.ended


def test_a_refusal_that_is_not_read_is_given_up(world: Any) -> None:
    client = world.rest(b"/v1/models/closed:predict", body=None, length=100_000)
    assert len(world.finished) == 1
    slow = type(client)("HTTP/1.1")
    slow.is_full = True
    world.rest(b"/v1/models/closed:predict", client=slow)
    assert len(world.finished) == 1
    world.loop.advance(world.snapshot.limits.stall + 0.1)
    world.reaper.sweep(world.loop.now)
    assert slow.reset_code == CANCEL
    assert str(world.finished[1].flags) == "DT"


def test_a_refusal_that_is_read_late_is_finished_then(world: Any, wire: Any) -> None:
    slow = wire.client("HTTP/1.1")
    slow.is_full = True
    world.rest(b"/v1/models/closed:predict", client=slow)
    slow.sink.drained()
    assert world.finished[0].status == 403
    assert world.pipeline.live == set()


def test_keys_that_change_hands_meanwhile_are_not_fetched_for_ever(world: Any) -> None:
    world.verifier.raises = KeysWanted("corp")
    client = world.rest(headers=((b"authorization", b"Bearer good"),))
    world.refreshes[0][1]()
    assert world.finished == []
    world.refreshes[1][1]()
    assert len(world.refreshes) == 2
    assert client.headers[b"x-meshproxy-refusal"] == b"keys-unavailable"


def test_a_head_that_the_server_does_not_take_is_refused(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, head: Any) -> None:
        raise HeadRefused("the head has 20000 bytes, and the peer takes 16384")

    world.cluster.is_ready = False
    client = world.rest()
    waiter = world.cluster.waiting.pop()
    monkeypatch.setattr(world.upstream_type, "send_request", refuse)
    world.cluster.give(waiter)
    assert client.status == 431


def test_a_defect_in_the_answer_costs_one_request(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    client = world.rest()
    client.send_response = None
    world.cluster.streams[0].respond()
    assert client.reset_code is not None
    assert len(world.finished) == 1
    assert "internal error" in caplog.text


def test_a_defect_costs_one_request(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    world.policy.decide = None
    client = world.rest()
    assert client.status == 500
    assert client.headers[b"x-meshproxy-refusal"] == b"internal"
    assert "internal error" in caplog.text


def test_an_answer_that_ends_in_an_empty_piece_is_held_all_the_same(world: Any) -> None:
    client = world.rest()
    client.is_full = True
    (server,) = world.cluster.streams
    server.sink.head_received(ResponseHead(0, 200, (), end=False))
    server.sink.data_received(b"", 0, True)
    assert world.finished == []
    for _ in range(2):
        world.loop.advance(world.snapshot.limits.stall + 0.1)
        world.reaper.sweep(world.loop.now)
    assert client.reset_code == CANCEL
    assert str(world.finished[0].flags) == "DT"


def test_what_all_clients_leave_unread_is_limited(world: Any, wire: Any) -> None:
    world.use(limits=msgspec.structs.replace(world.snapshot.limits, response_buffer_total=100))
    clients = [world.rest(client=wire.client("HTTP/1.1")) for _ in range(3)]
    for client, server in zip(clients, world.cluster.streams, strict=True):
        client.is_full = True
        server.sink.head_received(ResponseHead(0, 200, (), end=False, length=1_000))
        server.sink.data_received(b"x" * 40, 40, False)
    assert [client.reset_code for client in clients] == [CANCEL, None, None]  # who has not read for longest
    assert world.limits_hit == ["response_buffer_total_bytes"]
    assert world.pipeline.response_buffer.total == 80
    clients[1].sink.drained()
    clients[2].sink.reset_received(CANCEL, "gone")
    assert world.pipeline.response_buffer.total == 0
    assert len(world.pipeline.response_buffer) == 0


def test_a_body_that_trickles_must_come_to_its_model(world: Any, wire: Any) -> None:
    client = world.grpc(None)
    message = wire.framed(wire.tensor(5_000))
    stall = world.snapshot.limits.stall
    for at in range(3):
        client.receive(message[at : at + 1], False)
        world.loop.advance(stall / 2 + 0.1)
        world.reaper.sweep(world.loop.now)
    assert client.headers[b"grpc-status"] == b"1"
    assert len(world.pipeline.scan_buffer) == 0


def test_a_finished_answer_buffers_nothing(world: Any, wire: Any) -> None:
    """One that ended in an empty piece held nothing, and must not stand in the way of those that do."""
    world.use(limits=msgspec.structs.replace(world.snapshot.limits, response_buffer_total=100))
    empty = world.rest(client=wire.client("HTTP/1.1"))
    empty.is_full = True
    world.cluster.streams[0].sink.head_received(ResponseHead(0, 200, (), end=False))
    world.cluster.streams[0].sink.data_received(b"", 0, True)
    empty.sink.drained()
    assert len(world.finished) == 1
    assert len(world.pipeline.response_buffer) == 0
    clients = [world.rest(client=wire.client("HTTP/1.1")) for _ in range(2)]
    for client, server in zip(clients, world.cluster.streams[1:], strict=True):
        client.is_full = True
        server.sink.head_received(ResponseHead(0, 200, (), end=False, length=1_000))
        server.sink.data_received(b"x" * 60, 60, False)
    assert [client.reset_code for client in clients] == [CANCEL, None]


def test_keys_that_come_after_the_refusal_change_nothing(world: Any) -> None:
    world.verifier.raises = KeysWanted("corp")
    client = world.rest(headers=((b"authorization", b"Bearer good"),), body=None, length=4)
    client.sink.refuse(Refusal(Reason.DEADLINE_EXCEEDED, "too late"))
    world.verifier.raises = None
    world.refreshes[0][1]()
    assert world.cluster.streams == []
    client.receive(b"body", True)
    assert client.status == 504


def test_a_defect_at_the_connection_costs_one_request(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    world.cluster.is_ready = False
    client = world.rest()
    waiter = world.cluster.waiting.pop()
    world.cluster.make_stream = object  # no stream
    world.cluster.give(waiter)
    assert client.status == 500
    assert "internal error" in caplog.text


class TestReadInSlices:
    """A compressed message inflates to much: it is read with other work in between, and held meanwhile."""

    def send(self, world: Any, wire: Any, model: bytes, cuts: int = 1) -> tuple[Any, bytes]:
        client = world.grpc(None, headers=((b"grpc-encoding", b"gzip"),))
        message = gzip.compress(wire.spec(model) + wire.tensor(8 << 20))
        body = b"\1" + len(message).to_bytes(4, "big") + message
        step = len(body) // cuts + 1
        for begin in range(0, len(body), step):
            client.receive(body[begin : begin + step], begin + step >= len(body))
        return client, body

    @pytest.mark.parametrize("cuts", [1, 3])
    def test_it_is_forwarded_when_it_has_been_read(self, world: Any, wire: Any, cuts: int) -> None:
        client, body = self.send(world, wire, b"open", cuts)
        (server,) = world.cluster.streams
        assert (server.body, client.credited) == (b"", 0)
        turns = 0
        while world.loop.soon:
            assert len(world.loop.soon) == 1
            assert not server.ended
            world.loop.turn()
            turns += 1
        assert 32 <= turns <= 36
        assert (server.body, server.ended, client.credited) == (body, True, len(body))

    def test_bodies_take_turns(self, world: Any, wire: Any) -> None:
        self.send(world, wire, b"open")
        self.send(world, wire, b"open")
        ends = []
        while world.loop.soon:
            assert len(world.loop.soon) == 1  # one slice in an iteration, not one for each
            world.loop.turn()
            ends.append([server.ended for server in world.cluster.streams])
        assert ends.count([True, False]) == 1

    def test_who_may_not_call_the_model_causes_no_more_work(self, world: Any, wire: Any) -> None:
        client, _ = self.send(world, wire, b"closed")
        assert client.headers[b"x-meshproxy-refusal"] == b"permission-denied"
        world.loop.turn()
        assert world.loop.soon == []
        assert world.cluster.streams == []

    def test_a_client_that_leaves_ends_it(self, world: Any, wire: Any) -> None:
        client, _ = self.send(world, wire, b"open")
        client.sink.reset_received(CANCEL, "the client left")
        world.loop.turn()
        assert world.loop.soon == []
        world.assert_let_go()

    def test_what_breaks_further_on_is_refused(self, world: Any, wire: Any) -> None:
        client = world.grpc(None, headers=((b"grpc-encoding", b"gzip"),))
        message = gzip.compress(wire.spec(b"open") + wire.tensor(8 << 20) + b"\x07")
        client.receive(b"\1" + len(message).to_bytes(4, "big") + message, True)
        while world.loop.soon:
            world.loop.turn()
        assert client.headers[b"x-meshproxy-refusal"] == b"malformed-message"
        assert world.cluster.streams[0].body == b""

    def test_so_many_of_one_connection_are_inflated_at_once(self, world: Any, wire: Any) -> None:
        world.use(limits=BodyLimits())
        message = gzip.compress(wire.spec(b"open") + wire.tensor(100))
        body = b"\1" + len(message).to_bytes(4, "big") + message

        def begin(first: Any = None) -> Any:
            client = wire.client()
            if first is not None:
                client.info = first.info
            world.grpc(None, headers=((b"grpc-encoding", b"gzip"),), client=client)
            client.receive(body[:20], False)
            return client

        clients = [begin()]
        clients += [begin(clients[0]) for _ in range(INFLATING_BODIES - 1)]
        assert all(client.heads == [] for client in clients)
        refused = begin(clients[0])
        assert refused.headers[b"x-meshproxy-refusal"] == b"overloaded"
        assert world.limits_hit == ["inflating_bodies"]
        assert begin().heads == []  # of another connection
        clients[0].receive(body[20:], True)
        clients[1].sink.reset_received(CANCEL, "the client left")
        assert clients[0].info.inflating == INFLATING_BODIES - 2
        assert begin(clients[0]).heads == []

    def test_the_client_is_not_blamed_for_waiting(self, world: Any, wire: Any) -> None:
        client, _ = self.send(world, wire, b"open", 3)
        world.wait(100)
        assert client.heads == []


class TestLongBodies:
    """What of them is written as it was read (`h1.H1Driver.get_buffer`)."""

    BODY = b"".join(b"%7d\n" % number for number in range(1 << 17))  # 1 MiB

    def read(self, connection: Any, head: bytes) -> None:
        """A message, in reads as large as they may be. All that is written waits for a socket."""
        data = head % len(self.BODY) + self.BODY
        while data:
            buffer = connection.get_buffer(-1)
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            connection.buffer_updated(size)
            data = data[size:]
        connection.shared.outbox.flush()

    def ask(self, tmp_path: Path) -> tuple[Bench, Any, Any]:
        bench = Bench(LineWriter.file(tmp_path / "log"))
        server, client = rest(bench)
        self.read(server, b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n")
        return bench, server, client

    async def test_both_ways_they_pass_in_views_once_nothing_is_kept(self, tmp_path: Path) -> None:
        bench, _, client = self.ask(tmp_path)
        # The first read is of any request, and more than is kept for another attempt.
        assert [type(data) for data in bench.server_side.written[-4:]] == [memoryview] * 4
        assert [len(data) for data in bench.server_side.written[-4:-1]] == [BODY_BYTES] * 3
        assert bench.server_side.take().endswith(b"\r\n\r\n" + self.BODY)
        self.read(client, b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n")
        assert [type(data) for data in bench.client_side.written[1:]] == [memoryview] * 10
        assert bench.client_side.take().endswith(b"\r\n\r\n" + self.BODY)

    async def test_whoever_looks_at_an_answer_gets_bytes(self, tmp_path: Path) -> None:
        _, server, client = self.ask(tmp_path)
        seen: list[bytes] = []
        request: Any = server.sink
        request.mirrored = SimpleNamespace(take_answer=seen.append, launch=lambda *_: None)
        self.read(client, b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n")
        assert {type(piece) for piece in seen} == {bytes}
        assert b"".join(seen) == self.BODY

    @pytest.mark.parametrize("who", ["_scan", "_actions", "_held", "_unread"])
    async def test_nothing_is_passed_on_unseen_while_somebody_looks_at_the_request(
        self, tmp_path: Path, who: str
    ) -> None:
        bench = Bench(LineWriter.file(tmp_path / "log"))
        server, _ = rest(bench)
        server.data_received(b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 999999\r\n\r\n")
        server.data_received(self.BODY[:READ_BYTES])
        request: Any = server.sink
        assert request.passes_on
        setattr(request, who, SimpleNamespace())
        assert not request.passes_on
        setattr(request, who, None)
        request._retries._replay = []
        assert not request.passes_on
