"""Commands and what they write: order, windows, credit, goodbye, and what is refused as a mistake of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshproxy.codec.events import Data, Failed, RequestHead, Writable
from meshproxy.codec.h2 import frames
from meshproxy.codec.h2.encoder import HeadTooLarge
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import LocalProtocolError, Role

Talk = Any  # conftest.Talk, made by the fixture `talk`
WINDOW = frames.INITIAL_WINDOW_SIZE


def kinds(talk: Talk) -> list[tuple[str, int, int]]:
    return [(frame.kind, frame.flags, frame.stream) for frame in talk.heard()]


def body(talk: Talk, stream: int) -> bytes:
    return b"".join(frame.payload for frame in talk.heard() if frame.kind == "DATA" and frame.stream == stream)


def test_a_unary_exchange(talk: Callable[..., Talk]) -> None:
    server = talk()
    server.opened()
    server.connection.send_response(1, 200, ((b"content-type", b"application/grpc"),), False)
    assert server.connection.send_data(1, b"message", False)
    server.connection.send_trailers(1, ((b"grpc-status", b"0"),))
    assert kinds(server) == [("HEADERS", 4, 1), ("DATA", 0, 1), ("HEADERS", 5, 1)]
    assert len(server.connection._streams) == 1  # the client has not ended yet
    server.say(server.data(1, b"", end=True))
    assert server.connection.is_idle


def test_octets_beyond_ascii_go_out_and_come_in_as_they_are(talk: Callable[..., Talk]) -> None:
    trailers = ((b"grpc-message", "grün".encode() + b"\xff\xfe%zz"), (b"grpc-status", b"3"))
    server, client = talk(), talk(Role.CLIENT)
    server.opened()
    server.connection.send_response(1, 200, (), False)
    server.connection.send_trailers(1, trailers)
    client.asked()
    client.say(client.head(1, client.OK))
    *_, block = [frame.payload for frame in server.heard() if frame.kind == "HEADERS"]
    (event,) = client.say(frames.frame(frames.HEADERS, 5, 1, block))
    assert event.headers == trailers


def test_output_is_taken_once(talk: Callable[..., Talk]) -> None:
    server = talk()
    server.connection.ping(b"12345678")
    assert server.connection.take_output() == frames.ping(b"12345678", ack=False)
    assert server.connection.take_output() == b""


def test_interim_heads(talk: Callable[..., Talk]) -> None:
    server = talk()
    server.opened()
    server.connection.send_response(1, 100, (), False)
    server.connection.send_response(1, 103, ((b"link", b"x"),), False)
    server.connection.send_response(1, 204, (), True)
    assert kinds(server) == [("HEADERS", 4, 1), ("HEADERS", 4, 1), ("HEADERS", 5, 1)]


@pytest.mark.parametrize("ends", ["data", "trailers"])
@pytest.mark.parametrize("has_body", [False, True], ids=["whole", "body to come"])
def test_a_response_to_head_has_no_body_whatever_is_written(
    talk: Callable[..., Talk], ends: str, has_body: bool
) -> None:
    server = talk()
    server.opened(fields=((b":method", b"HEAD"), *server.GET[1:]), end=not has_body)
    server.connection.send_response(1, 100, (), False)
    server.connection.send_response(1, 404, ((b"a", b"b"),), False, 5)
    assert server.connection.send_data(1, b"he", False)
    if ends == "data":
        assert server.connection.send_data(1, b"llo", True)
    else:
        server.connection.send_trailers(1, ((b"a", b"b"),))
    assert kinds(server) == [("HEADERS", 4, 1), ("HEADERS", 5, 1)]
    if has_body:
        server.say(server.data(1, b"", end=True))
    assert server.connection.is_idle


def test_a_response_to_head_declares_a_length(talk: Callable[..., Talk]) -> None:
    server = talk()
    server.opened(fields=((b":method", b"HEAD"), *server.GET[1:]), end=True)
    server.connection.send_response(1, 200, (), True, 5_000)
    assert kinds(server) == [("HEADERS", 5, 1)]


def test_a_304_declares_a_length_and_ends_later(talk: Callable[..., Talk]) -> None:
    """As a server answers that ends every stream with an empty DATA frame (RFC 9110 section 8.6)."""
    server = talk()
    server.opened()
    server.connection.send_response(1, 304, (), False, 5)
    assert server.connection.send_data(1, b"", True)
    assert [(frame.kind, frame.flags) for frame in server.heard()] == [("HEADERS", 4), ("DATA", 1)]
    server = talk()
    server.opened()
    server.connection.send_response(1, 304, (), False, 5)
    with pytest.raises(LocalProtocolError):
        server.connection.send_data(1, b"12345", True)


def test_large_heads_are_split(talk: Callable[..., Talk]) -> None:
    server = talk()
    server.opened()
    server.connection.send_response(1, 200, ((b"a", b"b" * 40_000),), True)
    output = server.heard()
    assert [(frame.kind, frame.flags, len(frame.payload) <= 16_384) for frame in output] == [
        ("HEADERS", 1, True),
        ("CONTINUATION", 0, True),
        ("CONTINUATION", 4, True),
    ]


def test_ids_of_a_client(talk: Callable[..., Talk]) -> None:
    client = talk(Role.CLIENT)
    assert [client.asked() for _ in range(3)] == [1, 3, 5]
    assert len(client.connection._streams) == 3
    assert client.connection.statistics.requests == 3


def test_concurrency_of_a_client(talk: Callable[..., Talk]) -> None:
    client = talk(Role.CLIENT, settings=[(frames.MAX_CONCURRENT_STREAMS, 2)])
    client.asked()
    assert client.connection.can_open
    second = client.asked()
    assert not client.connection.can_open
    with pytest.raises(LocalProtocolError):
        client.asked()
    client.connection.reset(second, 8)
    assert client.connection.can_open


def test_concurrency_before_and_after_settings(talk: Callable[..., Talk]) -> None:
    client = talk(Role.CLIENT, starts=False)
    for _ in range(100):
        client.asked()
    assert not client.connection.can_open
    client.say(frames.settings([]))
    assert client.connection.can_open
    client.say(frames.settings([(frames.MAX_CONCURRENT_STREAMS, 0)]))
    assert not client.connection.can_open


def test_the_last_id(talk: Callable[..., Talk]) -> None:
    client = talk(Role.CLIENT)
    client.connection._next_stream = 2**31 - 1
    assert client.asked() == 2**31 - 1
    assert not client.connection.can_open


def test_data_is_cut_to_frames(talk: Callable[..., Talk]) -> None:
    server = talk()
    server.opened()
    server.connection.send_response(1, 200, (), False)
    data = bytes(range(256)) * 200
    assert server.connection.send_data(1, data, True)
    output = server.heard()[1:]
    assert [(frame.flags, len(frame.payload)) for frame in output] == [
        (0, 16_384),
        (0, 16_384),
        (0, 16_384),
        (1, 2_048),
    ]
    assert b"".join(frame.payload for frame in output) == data


def test_larger_frames_if_the_peer_takes_them(talk: Callable[..., Talk]) -> None:
    server = talk(settings=[(frames.MAX_FRAME_SIZE, 50_000)])
    server.opened()
    server.connection.send_response(1, 200, (), False)
    assert server.connection.send_data(1, b"x" * 50_001, False)
    assert [len(frame.payload) for frame in server.heard()[1:]] == [50_000, 1]


def test_nothing_is_written_for_nothing(talk: Callable[..., Talk]) -> None:
    server = talk(settings=[(WINDOW, 0)])
    server.opened()
    server.connection.send_response(1, 200, (), False)
    server.heard()
    assert server.connection.send_data(1, b"", False)
    assert server.heard() == []
    assert server.connection.send_data(1, b"", True), "an end needs no window"
    assert kinds(server) == [("DATA", 1, 1)]


def test_the_streams_window(talk: Callable[..., Talk]) -> None:
    server = talk(settings=[(WINDOW, 10)])
    server.opened()
    server.connection.send_response(1, 200, (), False)
    assert not server.connection.send_data(1, b"0123456789abc", False)
    assert not server.connection.send_data(1, b"def", True), "what is behind held data is held"
    assert body(server, 1) == b"0123456789"
    assert server.say(frames.window_update(1, 4)) == []
    assert body(server, 1) == b"abcd"
    assert server.say(frames.window_update(1, 2)) == [Writable(1)]
    assert [(frame.flags, frame.payload) for frame in server.heard()] == [(1, b"ef")]


def test_the_connections_window_is_shared_fairly(talk: Callable[..., Talk]) -> None:
    server = talk(settings=[(WINDOW, 2**31 - 1)])
    for stream in (1, 3, 5):
        server.opened(stream)
        server.connection.send_response(stream, 200, (), False)
    assert server.connection.send_data(1, b"x" * 65_535, False), "the connection's window is used up"
    for stream in (1, 3, 5):
        assert not server.connection.send_data(stream, b"y" * 40_000, True)
    server.heard()
    events = server.say(frames.window_update(0, 60_000))
    sent = [(frame.stream, len(frame.payload)) for frame in server.heard()]
    assert events == []
    assert sent == [(1, 16_384), (3, 16_384), (5, 16_384), (1, 10_848)]
    assert server.say(frames.window_update(0, 1_000)) == []
    assert [frame.stream for frame in server.heard()] == [3], "it goes on where it stopped"
    events = server.say(frames.window_update(0, 100_000))
    assert {event.stream for event in events if isinstance(event, Writable)} == {1, 3, 5}
    assert [frame.stream for frame in server.heard() if frame.flags & 1] == [1, 5, 3]


def test_a_stuck_stream_does_not_stop_the_others(talk: Callable[..., Talk]) -> None:
    server = talk(settings=[(WINDOW, 70_000)])
    for stream in (1, 3):
        server.opened(stream)
        server.connection.send_response(stream, 200, (), False)
    assert not server.connection.send_data(1, b"x" * 80_000, True)
    assert not server.connection.send_data(3, b"y" * 1_000, True)
    assert server.say(frames.window_update(0, 20_000)) == [Writable(3)]
    assert server.say(frames.window_update(0, 20_000)) == []
    server.heard()
    assert server.say(frames.window_update(1, 20_000)) == [Writable(1)]
    assert len(body(server, 1)) == 10_000


def test_windows_move_with_settings(talk: Callable[..., Talk]) -> None:
    """RFC 9113 section 6.9.2, its example included: a window may become negative."""
    server = talk(settings=[(WINDOW, 60)])
    server.opened()
    server.connection.send_response(1, 200, (), False)
    server.connection.send_data(1, b"x" * 60, False)
    assert not server.connection.send_data(1, b"y" * 100, True)
    server.say(frames.settings([(WINDOW, 16)]))
    server.heard()
    server.say(frames.window_update(1, 44))
    assert server.heard() == []
    server.say(frames.window_update(1, 5))
    assert body(server, 1) == b"y" * 5
    server.say(frames.settings([(WINDOW, 26)]))
    assert [frame.kind for frame in server.heard()] == ["SETTINGS", "DATA"]
    assert server.say(frames.settings([(WINDOW, 1_000)])) == [Writable(1)]
    assert len(body(server, 1)) == 85


def test_trailers_wait_for_data(talk: Callable[..., Talk]) -> None:
    server = talk(settings=[(WINDOW, 5)])
    server.opened(end=True)
    server.connection.send_response(1, 200, (), False)
    assert not server.connection.send_data(1, b"0123456789", False)
    server.connection.send_trailers(1, ((b"grpc-status", b"0"),))
    assert kinds(server) == [("HEADERS", 4, 1), ("DATA", 0, 1)]
    assert server.say(frames.window_update(1, 100)) == [Writable(1)]
    assert kinds(server) == [("DATA", 0, 1), ("HEADERS", 5, 1)]
    assert server.connection.is_idle


def test_held_data_is_dropped_with_its_stream(talk: Callable[..., Talk]) -> None:
    for reset in ("ours", "theirs", "the codec's"):
        for window in (5, 100_000):  # held by the stream's window, or by the connection's
            server = talk(settings=[(WINDOW, window)])
            server.opened()
            server.connection.send_response(1, 200, (), False)
            assert not server.connection.send_data(1, b"x" * 70_000, True)
            assert server.connection.held(1) == 70_000 - min(window, 65_535)
            if reset == "ours":
                server.connection.reset(1, 8)
            elif reset == "theirs":
                server.say(frames.rst_stream(1, 8))
            else:
                server.say(frames.window_update(1, 0))
            server.heard()
            assert server.connection.held(1) == 0
            assert server.say(frames.window_update(0, 100_000), frames.window_update(1, 100_000)) == []
            assert server.heard() == []


def test_credit_is_given_in_halves_of_a_window(talk: Callable[..., Talk]) -> None:
    server = talk(limits=Limits(stream_window=1_000, connection_window=65_535))
    server.opened()
    server.say(server.data(1, b"x" * 1_000))
    server.connection.credit(1, 499)
    assert server.heard() == []
    server.connection.credit(1, 1)
    assert server.heard() == [("WINDOW_UPDATE", 0, 1, (500).to_bytes(4, "big"))]
    server.connection.credit(1, 500)
    assert server.heard() == [("WINDOW_UPDATE", 0, 1, (500).to_bytes(4, "big"))]
    for _ in range(33):
        assert len(server.say(server.data(1, b"x" * 1_000))) == 1
        server.connection.credit(1, 1_000)
    updates = [int.from_bytes(frame.payload, "big") for frame in server.heard() if frame.stream == 0]
    assert updates == [33_000]


def test_credit_for_closed_streams_is_the_connections(talk: Callable[..., Talk]) -> None:
    server = talk(limits=Limits(stream_window=65_535, connection_window=65_535))
    server.opened()
    server.say(server.data(1, b"x" * 10_000), server.data(1, b"y" * 16_384), server.data(1, b"z" * 16_384, end=True))
    server.connection.credit(1, 20_000)
    assert server.heard() == [], "nobody sends on this stream any more"
    server.connection.reset(1, 8)
    server.heard()
    server.connection.credit(1, 22_768)
    assert kinds(server) == [("WINDOW_UPDATE", 0, 0)]


def test_reset(talk: Callable[..., Talk]) -> None:
    server = talk()
    server.opened()
    server.connection.reset(1, 8)
    assert server.heard() == [("RST_STREAM", 0, 1, b"\0\0\0\x08")]
    assert server.connection.is_idle
    assert server.connection.statistics.resets_sent == 1


def test_commands_on_streams_that_are_gone_do_nothing(talk: Callable[..., Talk]) -> None:
    server = talk()
    server.opened()
    server.say(frames.rst_stream(1, 8))
    connection = server.connection
    connection.send_response(1, 200, (), False)
    assert connection.send_data(1, b"x", True) is True
    connection.send_trailers(1, ())
    connection.reset(1, 8)
    connection.reset(99, 8)
    connection.credit(99, 5)
    assert server.heard() == []


def test_nothing_is_written_after_the_end(talk: Callable[..., Talk]) -> None:
    server = talk()
    server.opened()
    assert isinstance(server.say(frames.rst_stream(0, 8))[-1], Failed)
    server.heard()
    connection = server.connection
    connection.send_response(1, 200, (), False)
    connection.ping(b"12345678")
    connection.go_away(final=True)
    connection.credit(1, 2**20)
    connection.reset(1, 0)
    assert server.heard() == []
    assert connection.is_closed
    assert connection.is_idle


def test_our_own_mistakes(talk: Callable[..., Talk]) -> None:
    def twice(connection: Any) -> None:
        connection.send_response(1, 200, (), False)
        connection.send_response(1, 200, (), False)

    def interim_end(connection: Any) -> None:
        connection.send_response(1, 100, (), True)

    def data_first(connection: Any) -> None:
        connection.send_data(1, b"x", False)

    def trailers_first(connection: Any) -> None:
        connection.send_trailers(1, ())

    def data_after_end(connection: Any) -> None:
        connection.send_response(1, 200, (), False)
        connection.send_data(1, b"x", True)
        connection.send_data(1, b"y", False)

    def data_after_held_end(connection: Any) -> None:
        connection.send_response(1, 200, (), False)
        connection.send_data(1, b"x" * 100_000, True)
        connection.send_data(1, b"y", False)

    def trailers_after_held_end(connection: Any) -> None:
        connection.send_response(1, 200, (), False)
        connection.send_data(1, b"x" * 100_000, True)
        connection.send_trailers(1, ())

    def too_much(connection: Any) -> None:
        connection.send_response(1, 200, (), False, 3)
        connection.send_data(1, b"1234", False)

    def too_little(connection: Any) -> None:
        connection.send_response(1, 200, (), False, 3)
        connection.send_data(1, b"12", True)

    def trailers_too_early(connection: Any) -> None:
        connection.send_response(1, 200, (), False, 3)
        connection.send_trailers(1, ())

    def request(connection: Any) -> None:
        connection.send_request(b"GET", b"http", b"a", b"/", (), True)

    def short_ping(connection: Any) -> None:
        connection.ping(b"1234567")

    for mistake in [value for value in locals().values() if callable(value) and value is not talk]:
        server = talk()
        server.opened()
        with pytest.raises(LocalProtocolError):
            mistake(server.connection)


def test_a_client_sends_no_responses(talk: Callable[..., Talk]) -> None:
    client = talk(Role.CLIENT)
    client.asked()
    with pytest.raises(LocalProtocolError):
        client.connection.send_response(1, 200, (), False)
    with pytest.raises(LocalProtocolError):
        client.connection.send_request(b"GET", b"http", b"a", b"/", (), True, 5)
    with pytest.raises(LocalProtocolError):
        client.connection.send_data(client.asked(length=3), b"1234", False)


def test_a_head_that_the_peer_does_not_take_opens_nothing(talk: Callable[..., Talk]) -> None:
    client = talk(Role.CLIENT, settings=[(frames.MAX_HEADER_LIST_SIZE, 300)])
    with pytest.raises(HeadTooLarge):
        client.connection.send_request(b"GET", b"http", b"a", b"/", ((b"a", b"b" * 300),), True)
    assert client.connection.is_idle
    assert client.heard() == []
    assert client.asked() == 1


def test_a_refusal_that_the_peer_does_not_take_is_a_reset(talk: Callable[..., Talk]) -> None:
    server = talk(settings=[(frames.MAX_HEADER_LIST_SIZE, 60)])
    server.opened(1)
    server.connection.refuse(1, 200, ((b"a", b"b"),))
    assert server.heard() == [("RST_STREAM", 0, 1, ErrorCode.ENHANCE_YOUR_CALM.to_bytes(4, "big"))]
    assert server.connection.is_idle


def test_two_step_goodbye(talk: Callable[..., Talk]) -> None:
    """RFC 9113 section 6.8."""
    server = talk()
    server.opened(1)
    server.connection.go_away(final=False)
    assert server.heard() == [("GOAWAY", 0, 0, b"\x7f\xff\xff\xff\0\0\0\0")]
    assert server.opened(3) == 3, "it was on its way"
    server.connection.go_away(0, "bye", final=True)
    assert server.heard() == [("GOAWAY", 0, 0, b"\0\0\0\3\0\0\0\0bye")]
    late = server.say(server.head(5, server.POST), server.data(5, b"x"), server.data(3, b"y"))
    assert late == [Data(3, b"y", 1, False)]
    assert server.heard() == []
    server.connection.go_away(final=False)
    assert server.heard() == [], "what is final stays final"
    server.connection.go_away(final=True)
    assert server.heard() == [("GOAWAY", 0, 0, b"\0\0\0\3\0\0\0\0")]


def test_ignored_heads_stay_in_the_table(talk: Callable[..., Talk]) -> None:
    server = talk()
    server.opened(1)
    server.connection.go_away(final=True)
    assert server.say(server.head(3, [*server.POST, (b"x-new", b"entry")])) == []
    (event,) = server.say(server.head(1, [(b"x-new", b"entry")], end=True))
    assert event.headers == ((b"x-new", b"entry"),)


def test_a_client_says_goodbye_to_no_stream_of_the_server(talk: Callable[..., Talk]) -> None:
    client = talk(Role.CLIENT)
    client.asked()
    client.connection.go_away(final=True)
    assert client.heard() == [("GOAWAY", 0, 0, bytes(8))]
    assert not client.connection.can_open


def test_a_server_opens_nothing(talk: Callable[..., Talk]) -> None:
    server = talk()
    assert not server.connection.can_open
    assert isinstance(server.say(server.head(1, server.GET, end=True))[0], RequestHead)
    assert server.connection.statistics.requests == 1
