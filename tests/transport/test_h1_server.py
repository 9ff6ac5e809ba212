"""Conversations of the HTTP/1.1 driver of a client's connection, without sockets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.limits import Limits
from meshproxy.transport import h1_server
from meshproxy.transport.connection import READ_BYTES, ConnectionContext, Times
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.h1_server import H1Server, ServerState
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper
from tests.thorough import tries

GET = b"GET /v1/models/m HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


@pytest.fixture
def server(shared: ConnectionContext, info: ConnectionInfo, served: Any, transport: Any) -> H1Server:
    connection = H1Server(shared, info, served.serve, served.reject)
    connection.attach(transport)
    return connection


def respond(request: Any, body: bytes = b"hi") -> None:
    request.stream.send_response(200, (), end=False, length=len(body))
    request.stream.send_data(body, end=True)


class TestServer:
    def test_an_exchange_is_one_write(self, server: H1Server, served: Any, transport: Any, loop: Any) -> None:
        server.data_received(POST + b"body")
        (request,) = served.requests
        assert (request.head.target, request.body, request.ended) == (b"/v1/models/m:predict", b"body", True)
        respond(request)
        loop.turn()
        assert len(transport.written) == 1
        assert transport.take() == OK
        assert server.is_idle

    def test_a_connection_carries_one_request_after_another(
        self, server: H1Server, served: Any, transport: Any
    ) -> None:
        for _ in range(3):
            server.data_received(GET)
            respond(served.requests[-1])
        assert len(served.requests) == 3
        assert not transport.ended

    def test_pipelined_requests_wait_for_their_turn(
        self, server: H1Server, served: Any, transport: Any, loop: Any
    ) -> None:
        server.data_received(GET * 3)
        assert len(served.requests) == 1
        assert not transport.is_reading
        for count in (2, 3):
            respond(served.requests[-1])
            loop.turn()
            assert len(served.requests) == count
        respond(served.requests[-1])
        loop.turn()
        assert transport.is_reading
        assert transport.take() == OK * 3

    def test_a_body_that_is_not_taken_stops_the_reading(
        self, server: H1Server, served: Any, transport: Any, shared: ConnectionContext
    ) -> None:
        window = shared.limits.stream_window // 4
        server.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999\r\n\r\n")
        (request,) = served.requests
        request.holds = True
        server.data_received(b"a" * (window - 1))
        assert transport.is_reading
        server.data_received(b"b")
        assert not transport.is_reading
        request.stream.credit(window // 2)
        assert not transport.is_reading
        request.stream.credit(1)
        assert transport.is_reading

    def test_a_piece_that_is_taken_at_once_does_not_stop_the_reading(
        self, server: H1Server, served: Any, transport: Any
    ) -> None:
        server.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999\r\n\r\n")
        server.data_received(b"a" * READ_BYTES)
        assert served.requests[0].body == b"a" * READ_BYTES
        assert transport.pauses == 0

    def test_a_piece_that_closes_the_connection_is_not_waited_for(
        self, server: H1Server, served: Any, transport: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999\r\n\r\n")
        (request,) = served.requests
        monkeypatch.setattr(request, "data_received", lambda data, flow, end: request.stream.reset(8))
        server.data_received(b"a" * READ_BYTES)
        assert transport.ended == "aborted"
        assert transport.pauses == 0  # a transport that is closed raises when it is paused

    def test_a_slow_reader_holds_the_writer(self, server: H1Server, served: Any, transport: Any) -> None:
        server.data_received(GET)
        (request,) = served.requests
        request.stream.send_response(200, (), end=False, length=4)
        assert request.stream.send_data(b"a", end=False)
        server.pause_writing()
        assert not request.stream.send_data(b"b", end=False)
        assert request.drains == 0
        transport.unsent = 1
        assert request.stream.unread == 1
        server.resume_writing()
        assert request.drains == 1
        assert request.stream.send_data(b"cd", end=True)

    def test_connection_close_closes_after_the_answer(self, server: H1Server, served: Any, transport: Any) -> None:
        server.data_received(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        respond(served.requests[0])
        assert b"connection: close" in transport.take()
        assert transport.ended == "closed"

    def test_draining_says_so_with_the_next_answer(self, server: H1Server, served: Any, transport: Any) -> None:
        server.drain()
        server.data_received(GET)
        respond(served.requests[0])
        assert b"connection: close" in transport.take()
        assert transport.ended == "closed"

    def test_a_response_that_has_begun_leaves_the_announcement_to_the_next(
        self, server: H1Server, served: Any, transport: Any, loop: Any
    ) -> None:
        """Its client cannot know that the connection is about to be closed."""
        server.data_received(GET)
        served.requests[0].stream.send_response(200, (), end=False, length=2)
        server.drain()
        served.requests[0].stream.send_data(b"hi", end=True)
        loop.turn()
        assert (transport.take(), transport.ended) == (OK, "")
        assert not server.is_announced
        server.data_received(GET)
        respond(served.requests[1])
        assert b"connection: close" in transport.take()
        assert transport.ended == "closed"

    def test_what_was_pipelined_is_answered_before(
        self, server: H1Server, served: Any, transport: Any, loop: Any
    ) -> None:
        server.data_received(GET + GET)
        server.drain()
        respond(served.requests[0])
        loop.turn()
        assert transport.take() == OK
        respond(served.requests[1])
        assert b"connection: close" in transport.take()
        assert transport.ended == "closed"

    def test_a_head_that_is_being_received_when_draining_keeps_its_time_limit(
        self, server: H1Server, served: Any, transport: Any, shared: ConnectionContext, loop: Any
    ) -> None:
        server.drain()
        server.data_received(GET[:10])
        assert not server.is_idle
        shared.reaper.sweep(loop.now + shared.times.head + 0.1)
        assert b" 408 " in transport.take()

    def test_a_delay_lets_the_client_stay_a_while(
        self, server: H1Server, served: Any, transport: Any, loop: Any
    ) -> None:
        server.drain(1.0)
        for seconds in (0.0, 0.5, 1.0):
            loop.now += seconds
            server.data_received(GET)
            respond(served.requests[-1])
            loop.turn()
            assert transport.take() == OK
        server.data_received(GET)
        respond(served.requests[-1])
        assert b"connection: close" in transport.take()

    def test_a_response_may_close_the_connection(self, server: H1Server, served: Any, transport: Any) -> None:
        server.data_received(GET)
        served.requests[0].stream.close_connection()
        respond(served.requests[0])
        assert b"connection: close" in transport.take()
        assert transport.ended == "closed"

    def test_an_early_answer_lingers_until_the_body_has_come(
        self, server: H1Server, served: Any, transport: Any, loop: Any
    ) -> None:
        server.data_received(POST + b"bo")
        respond(served.requests[0])
        loop.turn()
        assert transport.take() == OK
        assert not transport.ended
        server.data_received(b"dy" + GET)
        loop.turn()
        assert len(served.requests) == 2
        assert served.requests[0].body == b"bo"

    def test_lingering_ends(
        self, server: H1Server, served: Any, transport: Any, loop: Any, shared: ConnectionContext
    ) -> None:
        server.data_received(POST)
        respond(served.requests[0])
        loop.turn()
        shared.reaper.sweep(loop.now + shared.times.linger + 0.1)
        assert transport.ended == "closed"

    def test_a_client_that_sends_everything_first_has_time_to(
        self, server: H1Server, served: Any, transport: Any, loop: Any, shared: ConnectionContext
    ) -> None:
        times = shared.times
        server.data_received(POST.replace(b"4", b"999"))
        respond(served.requests[0])
        loop.turn()
        begun = loop.now
        while not transport.ended:
            assert loop.now <= begun + times.linger_most
            server.data_received(b"x")
            loop.now += 0.9 * times.linger
            shared.reaper.sweep(loop.now)
        assert loop.now > begun + times.linger_most - times.linger

    def test_what_comes_after_a_refusal_of_the_codec_keeps_it_open_as_well(
        self, server: H1Server, served: Any, transport: Any, loop: Any, shared: ConnectionContext
    ) -> None:
        """Such a client reads the response when it has sent the body."""
        server.data_received(b"GET / HTTP/1.1\nhost: x\n\n")
        for _ in range(3):
            loop.now += 0.9 * shared.times.linger
            server.data_received(b"x" * 1_000)
            shared.reaper.sweep(loop.now)
        assert not transport.ended

    def test_what_the_codec_refuses_is_answered_and_closed(
        self, server: H1Server, served: Any, transport: Any, loop: Any, shared: ConnectionContext
    ) -> None:
        server.data_received(b"GET / HTTP/1.1\nhost: x\n\n")
        assert served.requests == []
        (rejected,) = served.rejected
        assert rejected.status == 400
        assert transport.take().startswith(b"HTTP/1.1 400 ")
        assert transport.wrote_eof
        server.data_received(GET)
        assert served.requests == []
        for _ in range(2):
            loop.now += shared.times.linger + 0.1
            shared.reaper.sweep(loop.now)
        assert transport.ended

    def test_a_limit_is_reported_by_name(self, server: H1Server, limits_hit: list[str]) -> None:
        server.data_received(b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert limits_hit == ["target_bytes"]

    def test_a_broken_body_is_its_readers_to_answer(self, server: H1Server, served: Any, transport: Any) -> None:
        server.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        server.data_received(b"zz\r\n")
        (request,) = served.requests
        assert [rejected.status for rejected in request.rejections] == [400]
        assert served.rejected == []
        request.stream.send_response(400, (), end=True)
        assert b"connection: close" in transport.take() or transport.wrote_eof

    def test_a_broken_body_behind_the_answer_is_nobodys(self, server: H1Server, served: Any, transport: Any) -> None:
        server.data_received(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        respond(served.requests[0])
        server.data_received(b"zz\r\n")
        assert served.rejected == []
        assert transport.ended != "aborted"

    def test_a_client_that_does_not_read_is_not_served_further(
        self, server: H1Server, served: Any, transport: Any, loop: Any
    ) -> None:
        server.pause_writing()
        server.data_received(GET * 3)
        respond(served.requests[0])
        loop.turn()
        assert len(served.requests) == 1
        assert not transport.is_reading
        server.resume_writing()
        assert len(served.requests) == 2

    def test_a_client_that_leaves_ends_the_request_under_way(
        self, server: H1Server, served: Any, transport: Any
    ) -> None:
        server.data_received(POST)
        server.eof_received()
        assert served.requests[0].reset == (ErrorCode.CANCEL, "the client closed the connection")
        assert transport.ended
        server.connection_lost(None)
        assert served.requests[0].reset is not None

    def test_a_lost_socket_ends_the_request_under_way(self, server: H1Server, served: Any) -> None:
        server.data_received(POST)
        server.connection_lost(ConnectionResetError("reset by peer"))
        assert served.requests[0].reset == (ErrorCode.CANCEL, "reset by peer")

    def test_a_reset_breaks_the_connection(self, server: H1Server, served: Any, transport: Any) -> None:
        server.data_received(GET)
        served.requests[0].stream.reset(ErrorCode.CANCEL)
        assert transport.ended == "aborted"
        assert served.requests[0].reset is None

    def test_commands_after_the_end_do_nothing(self, server: H1Server, served: Any, transport: Any) -> None:
        server.data_received(GET)
        server.connection_lost(None)
        stream = served.requests[0].stream
        stream.send_response(200, (), end=False)
        assert stream.send_data(b"x", end=True)
        stream.send_trailers(())
        stream.credit(1)
        stream.reset(ErrorCode.CANCEL)
        assert transport.written == []

    def test_a_head_that_dribbles_is_answered_with_408(
        self, server: H1Server, served: Any, transport: Any, loop: Any, shared: ConnectionContext, limits_hit: list[str]
    ) -> None:
        server.data_received(b"GET / HT")
        loop.now += shared.times.head - 1
        server.data_received(b"TP/1.1\r\n")
        shared.reaper.sweep(loop.now)
        assert not transport.ended
        shared.reaper.sweep(loop.now + 1.1)
        assert served.rejected[0].status == 408
        assert limits_hit == ["head_time"]
        assert transport.ended == "closed"

    def test_an_idle_connection_is_closed(
        self, server: H1Server, served: Any, transport: Any, loop: Any, shared: ConnectionContext
    ) -> None:
        server.data_received(GET)
        respond(served.requests[0])
        shared.reaper.sweep(loop.now + shared.times.idle - 1)
        assert not transport.ended
        shared.reaper.sweep(loop.now + shared.times.idle + 1)
        assert transport.ended == "closed"
        assert served.rejected == []

    def test_a_connection_at_rest_gives_its_buffer_back_once(
        self,
        server: H1Server,
        served: Any,
        transport: Any,
        loop: Any,
        shared: ConnectionContext,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """One that waits for its first request has used none; without TLS there is no buffer."""
        given_back: list[object] = []
        monkeypatch.setattr(h1_server, "give_back", given_back.append)
        server.info.tls_version = "TLSv1.3"
        shared.reaper.sweep(loop.now + shared.times.rest + 1)
        assert given_back == []
        for count in (1, 2):
            server.data_received(GET)
            respond(served.requests[-1])
            shared.reaper.sweep(loop.now + shared.times.rest - 1)
            assert len(given_back) == count - 1
            shared.reaper.sweep(loop.now + shared.times.rest + 1)
            shared.reaper.sweep(loop.now + shared.times.idle - 1)
            assert given_back == [transport] * count
        server.info.tls_version = ""
        server.data_received(GET)
        respond(served.requests[-1])
        shared.reaper.sweep(loop.now + shared.times.rest + 1)
        assert len(given_back) == 2
        assert not transport.ended

    def test_a_client_that_does_not_read_cannot_keep_it_open(
        self, server: H1Server, served: Any, transport: Any, loop: Any, shared: ConnectionContext
    ) -> None:
        server.data_received(GET)
        respond(served.requests[0])
        server.pause_writing()
        shared.reaper.sweep(loop.now + shared.times.idle + 1)
        assert transport.ended == "aborted"


WIRE = [
    *[GET] * 3,
    *[POST.replace(b"4", b"99") + b"b" * 99] * 3,
    b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nbad\r\n\r\n",
]
TIME_LIMITS = (Times().head, Times().idle, Times().linger)


class ServerMachine(RuleBasedStateMachine):
    """A client that sends requests in any pieces, a service that answers when it likes, sockets that fill, and time."""

    def __init__(self, loop: Any, transport: Any, served: Any) -> None:
        super().__init__()
        self.loop, self.transport, self.served = loop, transport, served
        shared = ConnectionContext(
            loop=loop,
            outbox=Outbox(loop),
            reaper=Reaper(loop),
            limits=Limits(),
            times=Times(),
            on_limit=lambda name: None,
        )
        info = ConnectionInfo(direction="inbound", protocol="HTTP/1.1", remote="127.0.0.1:1", local="127.0.0.1:2")
        self.server = H1Server(shared, info, served.serve, served.reject)
        self.server.attach(transport)
        self.to_send = b""
        self.answered = 0
        self.last_state, self.last_deadline = ServerState.IDLE, 0.0

    def is_open(self) -> bool:
        return not self.transport.ended

    def is_asked(self) -> bool:
        return self.is_open() and self.answered < len(self.served.requests)

    @precondition(lambda self: self.is_open() and self.transport.is_reading)
    @rule(request=st.sampled_from(WIRE), size=st.sampled_from([1, 10, 80, 1_000]))
    def bytes_arrive(self, request: bytes, size: int) -> None:
        if len(self.to_send) < size:
            self.to_send += request
        data, self.to_send = self.to_send[:size], self.to_send[size:]
        self.server.data_received(data)

    @precondition(is_asked)
    @rule(how=st.sampled_from(["whole", "whole", "whole", "in parts", "in parts", "aborted"]))
    def it_is_answered(self, how: str) -> None:
        stream = self.served.requests[self.answered].stream
        if how == "whole":
            stream.send_response(200, (), end=True)
        elif how == "in parts":
            stream.send_response(200, (), end=False)
            stream.send_data(b"part", end=False)
            assert self.server._state is ServerState.SERVING
            stream.send_data(b"", end=True)
        else:
            stream.reset(8)
        self.answered += 1

    @precondition(lambda self: self.is_open() and not self.server.is_paused)
    @rule()
    def the_socket_is_full(self) -> None:
        self.server.pause_writing()

    @precondition(lambda self: self.is_open() and self.server.is_paused)
    @rule()
    def the_socket_takes_more(self) -> None:
        self.server.resume_writing()

    @precondition(lambda self: self.loop.ready)
    @rule()
    def the_loop_turns(self) -> None:
        self.loop.turn()

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.5, 1.0, 3.0, 80.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.now += seconds
        self.server.shared.reaper.sweep(self.loop.now)

    @precondition(lambda self: self.answered > 2)
    @rule()
    def the_process_drains(self) -> None:
        self.server.drain()

    @invariant()
    def what_waits_has_a_time_limit_and_what_is_served_has_none(self) -> None:
        if not self.is_open():
            return
        state, deadline = self.server._state, self.server.deadline
        assert (state is ServerState.SERVING) == self.is_asked()
        if state is ServerState.SERVING:
            assert deadline == 0.0
        elif not self.server.is_closing:
            assert 0.0 < deadline <= self.loop.now + max(TIME_LIMITS)

    @invariant()
    def what_arrives_does_not_extend_a_time_limit(self) -> None:
        state = self.server._state if self.is_open() else ServerState.IDLE
        if state is self.last_state and state is ServerState.HEAD:
            assert self.server.deadline == self.last_deadline
        if state is ServerState.LINGERING:
            assert self.server.deadline <= self.server._lingers_until
        self.last_state, self.last_deadline = state, self.server.deadline

    @invariant()
    def the_rest_of_a_request_is_dropped_until_it_ends(self) -> None:
        if self.is_open() and self.server._state is ServerState.LINGERING:
            assert not self.server._codec.is_over

    @invariant()
    def requests_are_served_one_at_a_time(self) -> None:
        assert len(self.served.requests) <= self.answered + 1
        assert len(self.served.rejected) <= 1


def test_the_states_of_a_clients_connection(loop: Any, served: Any, make_transport: Any) -> None:
    class Machine(ServerMachine):
        def __init__(self) -> None:
            super().__init__(type(loop)(), make_transport(), type(served)())

    run_state_machine_as_test(Machine, settings=settings(max_examples=tries(150), stateful_step_count=40))
