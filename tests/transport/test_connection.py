"""What both drivers inherit: gathered output, backpressure, a deadline, an end."""

from __future__ import annotations

import socket
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.transport import connection as connection_module
from meshproxy.transport.connection import (
    LARGE_READ,
    LEAST_READ,
    READ_BYTES,
    READ_SECONDS,
    TCP_STATE,
    TWO_RECORDS,
    BodyBuffer,
    Connection,
    ConnectionContext,
    Reading,
    Times,
    has_unread,
    unheard,
)
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.outbox import MOST_DIRTY


class Recording(Connection):
    """A driver's half that writes down what it is told, and answers every piece with two of its own."""

    def __init__(self, shared: ConnectionContext, info: ConnectionInfo) -> None:
        super().__init__(shared, info)
        self.told: list[str] = []
        self.raises = False

    def receive(self, data: bytes) -> None:
        self.told.append("receive")
        self.write(b"answer to ")
        self.write(data)
        if self.raises:
            raise RuntimeError("a mistake of ours")

    def receive_eof(self) -> None:
        self.told.append("eof")

    def lost(self, reason: str) -> None:
        self.told.append(f"lost: {reason}")
        if self.raises:
            raise RuntimeError("a mistake of ours")

    def drained(self) -> None:
        self.told.append("drained")
        self.write(b"held back")

    def overdue(self) -> None:
        self.told.append("overdue")


@pytest.fixture
def connection(shared: ConnectionContext, info: ConnectionInfo, transport: Any) -> Recording:
    connection = Recording(shared, info)
    connection.connection_made(transport)
    return connection


def test_what_a_small_read_leaves_is_written_when_all_sockets_have_been_read(
    connection: Recording, transport: Any, loop: Any
) -> None:
    connection.data_received(b"a")
    connection.data_received(b"b")
    assert transport.written == []
    loop.turn()
    assert transport.written == [b"answer to aanswer to b"]


def test_the_first_of_many_does_not_wait_for_the_last(
    shared: ConnectionContext, info: ConnectionInfo, make_transport: Any, loop: Any
) -> None:
    transports = [make_transport() for _ in range(MOST_DIRTY)]
    for transport in transports:
        connection = Recording(shared, info)
        connection.connection_made(transport)
        assert transport.written == []
        connection.data_received(b"a")
    assert all(transport.written == [b"answer to a"] for transport in transports)
    loop.turn()
    assert all(len(transport.written) == 1 for transport in transports)


def test_what_was_written_since_then_can_be_taken_back(connection: Recording, transport: Any, loop: Any) -> None:
    connection.write(b"kept")
    queued = connection.queued
    connection.write(b"taken ")
    connection.write(b"back")
    connection.take_back(queued)
    loop.turn()
    assert transport.written == [b"kept"]


def test_what_a_large_read_leaves_is_written_at_once(connection: Recording, transport: Any, loop: Any) -> None:
    connection.data_received(b"a")
    connection.data_received(b"b" * LARGE_READ)
    assert transport.written == [b"answer to aanswer to " + b"b" * LARGE_READ]
    loop.turn()
    assert len(transport.written) == 1


def test_what_is_written_outside_of_a_batch_goes_out_in_the_next_turn(
    connection: Recording, transport: Any, loop: Any
) -> None:
    connection.write(b"a")
    connection.write(b"b")
    assert transport.written == []
    loop.turn()
    assert transport.written == [b"ab"]


def test_a_batch_that_fails_still_writes_what_was_gathered(connection: Recording, transport: Any, loop: Any) -> None:
    connection.raises = True
    with pytest.raises(RuntimeError):
        connection.data_received(b"a")
    loop.turn()
    assert transport.written == [b"answer to a"]


def test_a_peer_that_reads_again_gets_what_was_held_back(connection: Recording, transport: Any) -> None:
    connection.pause_writing()
    connection.resume_writing()
    assert connection.told == ["drained"]
    assert transport.written == [b"held back"]


def test_closing_sends_what_was_gathered(connection: Recording, transport: Any) -> None:
    connection.write(b"last words")
    connection.close()
    assert (transport.take(), transport.ended) == (b"last words", "closed")


def test_a_second_close_leaves_the_transport_alone(connection: Recording, transport: Any) -> None:
    connection.close()
    asked: list[str] = []
    transport.close = lambda: asked.append("close")
    transport.get_write_buffer_size = lambda: asked.append("size")
    connection.close()
    assert asked == []


def test_closing_takes_no_longer_than_lingering(connection: Recording, transport: Any, loop: Any) -> None:
    transport.close = lambda: None  # the peer does not take what is still to be sent
    connection.close()
    reaper, linger = connection.shared.reaper, connection.shared.times.linger
    reaper.sweep(loop.now + linger)
    assert not transport.ended
    reaper.sweep(loop.now + linger + 0.1)
    assert transport.ended == "aborted"
    assert connection.told == []


def test_aborting_drops_what_was_gathered(connection: Recording, transport: Any, loop: Any) -> None:
    connection.write(b"never said")
    connection.abort()
    loop.turn()
    assert (transport.take(), transport.ended) == (b"", "aborted")


def test_nothing_is_written_to_a_socket_that_is_closing(connection: Recording, transport: Any, loop: Any) -> None:
    transport.close()
    connection.write(b"too late")
    loop.turn()
    connection.write(b"again")
    loop.turn()
    assert transport.written == []


def test_a_deadline_that_passes_is_told_once(connection: Recording, loop: Any) -> None:
    connection.deadline = loop.now + 1
    connection.shared.reaper.sweep(loop.now + 1.1)
    connection.shared.reaper.sweep(loop.now + 2)
    assert connection.told == ["overdue"]


def test_a_peer_that_does_not_read_is_not_asked_whether_it_is_late(
    connection: Recording, transport: Any, loop: Any
) -> None:
    connection.pause_writing()
    connection.deadline = loop.now + 1
    connection.shared.reaper.sweep(loop.now + 1.1)
    assert connection.told == []
    assert transport.ended == "aborted"


@pytest.mark.parametrize("error", [None, ConnectionResetError("reset by peer")], ids=["closed", "reset"])
def test_a_lost_socket_leaves_nothing_behind(connection: Recording, error: Exception | None) -> None:
    gone: list[object] = []
    connection.on_lost = gone.append
    assert len(connection.shared.reaper) == 1
    connection.connection_lost(error)
    assert connection.told == [f"lost: {error or 'the connection was closed'}"]
    assert gone == [connection]
    assert connection.is_closing
    assert len(connection.shared.reaper) == 0


def test_whoever_counts_connections_hears_of_one_whatever_its_streams_do(connection: Recording) -> None:
    gone: list[object] = []
    connection.on_lost = gone.append
    connection.raises = True
    with pytest.raises(RuntimeError):
        connection.connection_lost(None)
    assert gone == [connection]
    assert len(connection.shared.reaper) == 0


def test_what_others_have_to_say_is_written_whatever_the_end_of_a_connection_does(
    connection: Recording, shared: ConnectionContext, info: ConnectionInfo, make_transport: Any, loop: Any
) -> None:
    def mistake(_: object) -> None:
        raise RuntimeError("a mistake of ours")

    transport, other = make_transport(), Recording(shared, info)
    other.connection_made(transport)
    connection.on_lost = mistake
    with pytest.raises(RuntimeError):
        connection.connection_lost(None)
    other.data_received(b"a")
    loop.turn()
    assert transport.written == [b"answer to a"]


def test_a_half_close_keeps_our_half_open_until_we_close_it(connection: Recording) -> None:
    assert connection.eof_received()
    connection.close()
    assert not connection.eof_received()
    assert connection.told == ["eof", "eof"]


def test_load_balancers_close_first() -> None:
    """They keep a connection for 60 s: closing before them would cross a request on its way."""
    assert Times().idle > 60


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_what_the_peer_has_not_read_is_seen(family: int) -> None:
    ours, theirs = socket.socketpair() if family == socket.AF_UNIX else tcp_pair()
    transport: Any = SimpleNamespace(get_write_buffer_size=lambda: 0, get_extra_info=lambda name: ours)
    with ours, theirs:
        assert not has_unread(transport)
        ours.setblocking(False)
        sent = 0
        with suppress(BlockingIOError):
            while True:
                sent += ours.send(b"x" * 65_536)
        assert has_unread(transport)
        while sent:
            sent -= len(theirs.recv(65_536))
        theirs.send(b"response")
        ours.setblocking(True)
        assert ours.recv(8) == b"response"
        assert not has_unread(transport)
    assert not has_unread(transport)  # closed


def test_what_has_not_been_sent_has_not_been_read() -> None:
    transport: Any = SimpleNamespace(get_write_buffer_size=lambda: 1, get_extra_info=lambda name: None)
    assert has_unread(transport)
    transport.get_write_buffer_size = lambda: 0
    assert not has_unread(transport)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        return ours, server.accept()[0]


def test_a_peer_that_acknowledges_is_heard_whether_it_reads_or_not() -> None:
    ours, theirs = tcp_pair()
    with ours, theirs:
        transport: Any = SimpleNamespace(get_extra_info=lambda name: ours)
        assert unheard(transport) == 0.0
        ours.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                ours.send(b"x" * 65_536)
        assert unheard(transport) == 0.0
    assert unheard(transport) == 0.0  # closed


@pytest.mark.parametrize(
    ("retransmits", "probes", "seconds"), [(0, 0, 0.0), (1, 1, 0.0), (2, 0, 9.5), (0, 2, 9.5), (200, 0, 9.5)]
)
def test_what_was_sent_again_in_vain_is_unheard(retransmits: int, probes: int, seconds: float) -> None:
    """As the kernel tells it; a drill asks a real one whose packets are lost."""
    state = TCP_STATE.pack(retransmits, probes, 9500)
    sock = SimpleNamespace(fileno=lambda: 1, getsockopt=lambda level, option, size: state)
    assert unheard(SimpleNamespace(get_extra_info=lambda name: sock)) == seconds  # type: ignore[arg-type]


def test_nobody_can_tell_of_a_unix_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert unheard(SimpleNamespace(get_extra_info=lambda name: ours)) == 0.0  # type: ignore[arg-type]
    assert unheard(SimpleNamespace(get_extra_info=lambda name: None)) == 0.0  # type: ignore[arg-type]


class TestBodyBuffer:
    def test_what_was_written_at_once_leaves_the_buffer_to_the_next_read(self) -> None:
        bodies = BodyBuffer(8)
        bodies.take()[:3] = b"abc"
        assert bodies.read(3) == b"abc"
        bodies.take()
        assert bodies.read(3) == b"abc"

    def test_what_waits_for_a_socket_is_never_overwritten(self) -> None:
        bodies = BodyBuffer(8)
        waiting = []
        for number in range(3):
            bodies.take()[:4] = b"%4d" % number
            waiting.append(bodies.read(4)[1:][-1:])  # a part of a view holds as much
        bodies.take()[:4] = b"next"
        assert waiting == [b"0", b"1", b"2"]
        assert bodies.read(4) == b"next"

    def test_its_size_stays(self) -> None:
        bodies = BodyBuffer(8)
        views = []
        for number in range(6):
            assert len(bodies.take()) == 8
            if number % 2:
                views.append(bodies.read(4))


class Reader(Reading):
    """Each byte that it reads costs some processor time."""

    def __init__(self, shared: ConnectionContext) -> None:
        super().__init__(shared)
        self.now = 1.0
        self.cost = 0.0
        self.given_way = 0

    def data_received(self, data: bytes) -> None:
        self.now += len(data) * self.cost

    def give_way(self) -> None:
        self.given_way += 1

    def read(self, sizehint: int, most: int = READ_BYTES) -> int:
        """As uvloop does, of `sizehint` encrypted bytes. Returns how much was read."""
        size = min(len(self.get_buffer(sizehint)), most)
        self.buffer_updated(size)
        return size


class TestReads:
    """How much is read at once (`Reading`)."""

    @pytest.fixture
    def reader(self, shared: ConnectionContext, monkeypatch: pytest.MonkeyPatch) -> Reader:
        reader = Reader(shared)
        reader.is_encrypted = True
        monkeypatch.setattr(connection_module, "thread_time", lambda: reader.now)
        return reader

    def test_who_makes_reads_expensive_gets_smaller_ones_after_others(self, reader: Reader) -> None:
        reader.cost = 1e-7
        assert reader.read(200_000) == READ_BYTES
        assert reader.given_way == 1
        assert reader.read(200_000) * reader.cost == pytest.approx(READ_SECONDS, rel=0.01)
        assert reader.given_way == 2
        reader.cost = 1e-3
        reader.read(200_000)
        assert reader.read(200_000) == LEAST_READ

    def test_they_grow_again_whatever_is_read(self, reader: Reader) -> None:
        reader.cost = 1e-3
        reader.read(200_000)
        reader.cost = 0.0
        sizes = [reader.read(300) for _ in range(9)]
        assert sizes == [min(LEAST_READ << place, READ_BYTES) for place in range(9)]
        given_way = reader.given_way
        reader.read(300)
        assert reader.given_way == given_way

    def test_small_reads_are_not_weighed(self, reader: Reader) -> None:
        reader.cost = 1.0
        reader.read(TWO_RECORDS, most=300)
        assert reader.given_way == 0

    def test_records_without_data(self, reader: Reader) -> None:
        """Key updates: uvloop asks for a buffer, and puts nothing into it."""
        reader.get_buffer(TWO_RECORDS + 1)
        for _ in range(3):
            reader.get_buffer(TWO_RECORDS)  # the rest of a record is missing
        with pytest.raises(ConnectionAbortedError):
            reader.get_buffer(TWO_RECORDS + 1)

    def test_data_after_them(self, reader: Reader) -> None:
        for _ in range(3):
            reader.get_buffer(TWO_RECORDS + 1)
            assert reader.read(300, most=1) == 1

    def test_sockets_that_had_nothing_after_all(self, reader: Reader) -> None:
        reader.is_encrypted = False
        for _ in range(3):
            reader.get_buffer(65_536)  # what libuv says of each read
