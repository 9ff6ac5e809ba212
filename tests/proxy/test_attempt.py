"""What becomes of the model server's answer, piece by piece."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.codec.events import ResponseHead
from meshproxy.codec.limits import Limits
from meshproxy.refusal import GrpcStatus
from meshproxy.transport.connection import Driving, Times
from meshproxy.transport.connector import ConnectError
from meshproxy.transport.facts import ConnectionFacts
from meshproxy.transport.h1 import H1Server
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.stream import HeadRefused

PROTOCOL_ERROR, CANCEL = 0x1, 0x8


def head(status: int = 200, *, end: bool = False, headers: Any = ()) -> ResponseHead:
    return ResponseHead(0, status, headers, end)


@pytest.fixture
def client(world: Any) -> Any:
    """Whose request has gone out."""
    return world.rest()


@pytest.fixture
def server(world: Any, client: Any) -> Any:
    (server,) = world.cluster.streams
    return server


class TestHeads:
    def test_interim_heads_are_passed_on(self, client: Any, server: Any) -> None:
        server.sink.head_received(head(103, headers=((b"link", b"x"),)))
        server.sink.head_received(head(103))
        server.respond()
        assert client.heads[0] == (103, {b"link": b"x"})
        assert [status for status, _ in client.heads] == [103, 103, 200]

    def test_but_not_100_which_was_ours_to_send(self, client: Any, server: Any) -> None:
        server.sink.head_received(head(100))
        server.respond()
        assert [status for status, _ in client.heads] == [200]

    def test_a_head_alone_is_a_whole_answer(self, world: Any, client: Any, server: Any) -> None:
        server.sink.head_received(head(204, end=True))
        assert (client.status, client.ended) == (204, True)
        assert world.finished[0].status == 204

    def test_times_are_written_down(self, world: Any, client: Any, server: Any) -> None:
        world.loop.now += 1
        server.sink.head_received(head())
        world.loop.now += 1
        server.sink.data_received(b"{}", 2, True)
        (exchange,) = world.finished
        assert exchange.first_byte - exchange.connected == 1
        assert exchange.finished - exchange.first_byte == 1


class TestPieces:
    def test_what_the_client_takes_is_credited(self, client: Any, server: Any) -> None:
        server.sink.head_received(head())
        server.sink.data_received(b"abc", 5, False)
        assert (client.body, server.credited) == (b"abc", 5)  # padding included

    def test_what_it_does_not_take_is_owed_until_it_does(self, client: Any, server: Any) -> None:
        attempt = server.sink
        attempt.head_received(head())
        client.is_full = True
        attempt.data_received(b"abc", 3, False)
        attempt.data_received(b"def", 3, False)
        assert client.sink.is_blocked
        assert server.credited == 0
        client.sink.drained()
        assert server.credited == 6
        assert not client.sink.is_blocked
        client.sink.drained()
        assert server.credited == 6

    def test_the_last_piece_is_the_end_once_it_has_left(self, world: Any, client: Any, server: Any) -> None:
        server.sink.head_received(head())
        client.is_full = True
        server.sink.data_received(b"abc", 3, True)
        assert client.ended
        assert world.finished == []
        client.sink.drained()
        assert [exchange.bytes_sent for exchange in world.finished] == [3]

    def test_what_the_server_takes_again_is_credited_to_the_client(self, world: Any) -> None:
        client = world.rest(body=None, length=6)
        server = world.cluster.streams[0]
        server.is_full = True
        client.receive(b"abc", False)
        server.is_full = False
        server.sink.drained()
        server.sink.drained()
        assert client.credited == 3


class TestTrailers:
    @pytest.mark.parametrize(
        ("value", "status"),
        [
            (b"0", GrpcStatus.OK),
            (b"16", GrpcStatus.UNAUTHENTICATED),
            (b"99", 99),
            (b"999", GrpcStatus.UNKNOWN),
            (b"-1", GrpcStatus.UNKNOWN),
            (b"", GrpcStatus.UNKNOWN),
            ("٣".encode(), GrpcStatus.UNKNOWN),
        ],
    )
    def test_they_say_how_a_call_went(self, world: Any, wire: Any, value: bytes, status: int) -> None:
        client = world.grpc(wire.spec(b"open"))
        world.cluster.streams[0].respond_grpc(status=value)
        assert client.trailers == ((b"grpc-status", value),)
        assert world.finished[0].grpc_status == status

    def test_a_call_without_a_status_has_none(self, world: Any, wire: Any) -> None:
        world.grpc(wire.spec(b"open"))
        server = world.cluster.streams[0]
        server.sink.head_received(head())
        server.sink.trailers_received(())
        assert world.finished[0].grpc_status is None

    def test_over_rest_they_are_only_passed_on(self, world: Any, client: Any, server: Any) -> None:
        server.sink.head_received(head())
        server.sink.trailers_received(((b"grpc-status", b"5"), (b"x-checksum", b"1")))
        assert client.trailers == ((b"grpc-status", b"5"), (b"x-checksum", b"1"))
        assert world.finished[0].grpc_status is None


class TestBreaks:
    @pytest.mark.parametrize(("code", "flag", "status"), [(CANCEL, "UC", 502), (PROTOCOL_ERROR, "UPE", 502)])
    def test_before_the_answer_the_client_is_told(
        self, world: Any, client: Any, server: Any, code: int, flag: str, status: int
    ) -> None:
        server.sink.reset_received(code, "gone")
        assert client.status == status
        assert str(world.finished[0].flags) == flag

    def test_interim_heads_are_no_answer(self, client: Any, server: Any) -> None:
        server.sink.head_received(head(103))
        server.sink.reset_received(CANCEL, "gone")
        assert [status for status, _ in client.heads] == [103, 502]

    def test_within_the_answer_it_is_broken_off(self, world: Any, client: Any, server: Any) -> None:
        server.sink.head_received(head())
        server.sink.data_received(b"half", 4, False)
        server.sink.reset_received(CANCEL, "gone")
        assert client.reset_code is not None
        assert not client.ended
        assert str(world.finished[0].flags) == "UC"

    def test_behind_the_answer_it_means_nothing(self, world: Any, client: Any, server: Any) -> None:
        """RST_STREAM(NO_ERROR) behind an answer that came early (RFC 9113 section 8.1)."""
        attempt = server.sink
        server.sink.head_received(head())
        client.is_full = True
        attempt.data_received(b"all of it", 9, True)
        attempt.reset_received(0, "no more, please")
        client.sink.drained()
        assert client.reset_code is None
        assert str(world.finished[0].flags) == ""


class TestVerdicts:
    """What the endpoint hears, once, whatever becomes of the answer."""

    @pytest.mark.parametrize(
        ("status", "report"),
        [
            (200, "succeeded"),
            (404, "succeeded"),
            (429, "overloaded"),
            (500, "error"),
            (503, "gateway-error"),
        ],
    )
    def test_of_rest(self, world: Any, client: Any, server: Any, status: int, report: str) -> None:
        server.respond(status=status)
        assert world.cluster.reports == ["begin open", report]

    @pytest.mark.parametrize(
        ("status", "report"),
        [(b"0", "succeeded"), (b"3", "succeeded"), (b"8", "overloaded"), (b"13", "error"), (b"14", "unavailable")],
    )
    def test_of_grpc(self, world: Any, wire: Any, status: bytes, report: str) -> None:
        world.grpc(wire.spec(b"open"))
        world.cluster.streams[0].respond_grpc(status=status)
        world.grpc(wire.spec(b"open"))
        world.cluster.streams[1].fail_grpc(status)
        assert world.cluster.reports == ["begin open", report] * 2

    def test_a_grpc_answer_that_does_not_say_how_it_went_is_an_error(self, world: Any, wire: Any) -> None:
        world.grpc(wire.spec(b"open"))
        server = world.cluster.streams[0]
        server.sink.head_received(head())
        server.sink.data_received(b"answer", 6, True)
        assert world.cluster.reports == ["begin open", "error"]

    @pytest.mark.parametrize("end", [True, False])
    def test_a_gateway_in_between_answers_grpc_in_http(self, world: Any, wire: Any, end: bool) -> None:
        client = world.grpc(wire.spec(b"open"))
        server = world.cluster.streams[0]
        server.sink.head_received(head(503, end=end))
        assert client.status == 503
        if not end:
            server.sink.data_received(b"sorry", 5, True)
        assert world.cluster.reports == ["begin open", "gateway-error"]
        world.assert_let_go()

    @pytest.mark.parametrize(
        ("refusal", "is_sidecar", "report"),
        [
            (b"overloaded", True, "overloaded"),
            (b"deadline-exceeded", True, "overloaded"),
            (b"no-upstream", True, "gateway-error"),
            (b"overloaded", False, "gateway-error"),  # anybody may say so
        ],
    )
    def test_another_sidecar_that_has_too_much_to_do_is_not_to_blame(
        self, world: Any, refusal: bytes, is_sidecar: bool, report: str
    ) -> None:
        world.cluster.all[0].is_sidecar = is_sidecar
        world.rest()
        world.cluster.streams[0].respond(status=503, headers=((b"x-meshproxy-refusal", refusal),))
        assert world.cluster.reports == ["begin open", report]

    def test_an_answer_that_breaks_off_was_none(self, world: Any, client: Any, server: Any) -> None:
        server.sink.head_received(head())
        server.sink.reset_received(CANCEL, "gone")
        assert world.cluster.reports == ["begin open", "reset"]

    def test_an_answer_before_the_requests_end_counts(self, world: Any) -> None:
        client = world.rest(body=None, length=10)
        world.cluster.streams[0].sink.head_received(head(500, end=True))
        assert client.ended
        assert world.cluster.reports == ["begin open", "error"]
        assert world.cluster.streams[0].has_stopped

    def test_a_client_that_leaves_says_nothing_of_the_server(self, world: Any, client: Any, server: Any) -> None:
        client.sink.reset_received(CANCEL, "gone")
        assert world.cluster.reports == ["begin open", "cancelled"]
        world.assert_let_go()

    def test_nor_does_a_head_that_is_too_long_for_it(self, world: Any) -> None:
        def refuse(self: Any, head: Any) -> None:
            raise HeadRefused("the head has 20000 bytes, and the peer takes 16384")

        world.cluster.make_stream = type("Refusing", (world.upstream_type,), {"send_request": refuse})
        client = world.rest()
        assert client.status == 431
        (stream,) = world.cluster.streams
        assert (stream.reset_code, stream.has_stopped) == (None, False)  # it carries nothing of ours
        assert world.cluster.reports == ["begin open", "cancelled"]
        assert str(world.finished[0].flags) == ""
        world.assert_let_go()


class TestGivingUp:
    def test_the_model_server_is_told_once(self, world: Any, client: Any, server: Any) -> None:
        attempt = server.sink
        attempt.cancel()
        assert server.reset_code == CANCEL
        server.reset_code = None
        attempt.cancel()
        assert server.reset_code is None

    def test_an_answer_that_has_come_is_not_reset(self, client: Any, server: Any) -> None:
        """Its stream may carry the next exchange by now."""
        attempt = server.sink
        attempt.head_received(head())
        client.is_full = True
        attempt.data_received(b"all of it", 9, True)
        client.sink.reset_received(CANCEL, "gone")
        attempt.cancel()
        assert server.reset_code is None

    def test_a_request_that_has_not_gone_out_whole_is_stopped(self, world: Any) -> None:
        """Or its stream would stay open for ever, although the answer has come."""
        client = world.rest(body=None, length=10)
        (server,) = world.cluster.streams
        client.is_full = True
        server.respond(b"too early")
        client.sink.reset_received(CANCEL, "gone")
        assert server.has_stopped

    def test_a_connection_that_fails_meanwhile_is_nobodys(self, world: Any) -> None:
        """A pool tells many at once, and what the first makes of it may end the next."""
        world.cluster.is_ready = False
        client = world.rest()
        waiter = world.cluster.waiting[0]
        client.sink.reset_received(CANCEL, "gone")
        waiter.acquire_failed(ConnectError("refused"))
        assert client.heads == []
        assert world.cluster.reports == ["begin open", "cancelled"]
        assert world.traffic.events == []
        world.assert_let_go()

    def test_what_comes_afterwards_is_nobodys(self, world: Any, client: Any, server: Any) -> None:
        attempt = server.sink
        client.sink.reset_received(CANCEL, "gone")
        attempt.reset_received(CANCEL, "so are we")
        assert client.heads == []
        assert len(world.finished) == 1


class TestLate:
    """The client's connection may carry its next exchange by now: nothing of this one may be written there."""

    @pytest.mark.parametrize("what", ["head", "data", "trailers", "reset"])
    def test_what_comes_for_an_exchange_that_is_over_is_dropped(
        self, world: Any, client: Any, server: Any, what: str
    ) -> None:
        attempt = server.sink
        attempt.head_received(head())
        client.sink.finish()
        heads, body = len(client.heads), client.body
        if what == "head":
            attempt.head_received(head())
        elif what == "data":
            attempt.data_received(b"late", 4, True)
        elif what == "trailers":
            attempt.trailers_received(())
        else:
            attempt.reset_received(CANCEL, "gone")
        assert (len(client.heads), client.body, client.trailers) == (heads, body, None)
        assert client.reset_code is None
        assert len(world.finished) == 1


class Socket:
    """A transport that takes everything, for a real connection between a client and the pipeline."""

    def __init__(self) -> None:
        self.written = b""
        self.is_over = False

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.is_over

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None:
        """It has no socket."""

    def abort(self) -> None:
        self.is_over = True

    close = abort

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def set_write_buffer_limits(self, high: int) -> None: ...


def test_trailers_behind_a_piece_that_a_slow_client_over_http_1_has_not_taken(world: Any) -> None:
    """The exchange ends, and leaves the connection to the next."""
    loop: Any = SimpleNamespace(time=world.loop.time, call_soon=lambda callback, *arguments: callback(*arguments))
    driving = Driving(
        loop=loop,
        outbox=Outbox(loop),
        reaper=world.reaper,
        limits=Limits(),
        times=Times(),
        on_limit=world.limits_hit.append,
    )
    facts = ConnectionFacts(direction="inbound", protocol="HTTP/1.1", remote="127.0.0.1:1", local="127.0.0.1:2")
    connection, socket = H1Server(driving, facts, world.pipeline.serve, world.pipeline.reject), Socket()
    connection.attach(socket)  # type: ignore[arg-type]
    connection.data_received(b"GET /v1/models/open HTTP/1.1\r\nhost: x\r\n\r\n")
    attempt = world.cluster.streams[0].sink
    attempt.head_received(head())
    connection.pause_writing()
    attempt.data_received(b"abc", 3, False)
    attempt.trailers_received(((b"x-checksum", b"1"),))
    connection.resume_writing()
    assert len(world.finished) == 1
    assert world.pipeline.live == set()

    connection.data_received(b"GET /v1/models/open HTTP/1.1\r\nhost: x\r\n\r\n")
    for _ in range(3):
        world.loop.advance(world.snapshot.limits.stall + 0.1)
        world.reaper.sweep(world.loop.now)
    world.cluster.streams[1].respond(b"answer")
    assert not socket.is_over
    assert len(world.finished) == 2


@pytest.mark.parametrize("command", ["send_response", "send_data", "send_trailers"])
def test_a_mistake_of_ours_does_not_reach_the_connection_that_others_share(
    world: Any, wire: Any, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = world.grpc(wire.spec(b"open"))
    other = world.grpc(wire.spec(b"open"))
    server, neighbour = world.cluster.streams
    attempt = server.sink

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("a mistake of ours")

    setattr(client, command, fail)
    attempt.head_received(head())
    attempt.data_received(b"abc", 3, False)
    if command == "send_trailers":
        attempt.trailers_received(((b"grpc-status", b"0"),))
    assert client.reset_code is not None
    assert len(world.finished) == 1
    assert "internal error" in caplog.text
    neighbour.respond_grpc()
    assert other.ended
