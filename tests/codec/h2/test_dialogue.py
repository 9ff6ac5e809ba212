"""Our client speaks to our server: whatever the windows and however the bytes are cut, bodies arrive whole, in order
and once, and no window is overrun."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.events import Data, RequestHead, ResponseHead, Trailers, Writable
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from tests.thorough import tries

TRAILERS = ((b"grpc-status", b"0"),)


@dataclass
class End:
    """One side of the dialogue: sends a body on every stream, takes what comes, owes credit for some time."""

    connection: H2Connection
    random: Random
    to_send: dict[int, bytes] = field(default_factory=dict)
    waits: set[int] = field(default_factory=set)
    taken: dict[int, bytes] = field(default_factory=dict)
    complete: set[int] = field(default_factory=set)
    owed: list[tuple[int, int]] = field(default_factory=list)

    def send(self) -> None:
        """Send a piece on every stream that may; trailers end the server's messages."""
        for stream in [stream for stream in self.to_send if stream not in self.waits]:
            data = self.to_send[stream]
            piece = data[: self.random.choice((1, 100, 20_000, 100_000))]
            rest = data[len(piece) :]
            with_trailers = not rest and self.connection._role is Role.SERVER
            if not self.connection.send_data(stream, piece, not rest and not with_trailers):
                self.waits.add(stream)
            if with_trailers:
                self.connection.send_trailers(stream, TRAILERS)
            if rest:
                self.to_send[stream] = rest
            else:
                del self.to_send[stream]

    def take(self, data: bytes, answers: dict[int, bytes]) -> None:
        """Take in what the other end wrote; a server answers every request."""
        for event in self.connection.receive(data, 0.0):
            if isinstance(event, RequestHead):
                self.connection.send_response(event.stream, 200, (), False)
                self.to_send[event.stream] = answers[event.stream]
                self.taken[event.stream] = b""
            elif isinstance(event, ResponseHead):
                self.taken[event.stream] = b""
            elif isinstance(event, Data):
                assert event.stream not in self.complete
                self.taken[event.stream] += event.data
                self.owed.append((event.stream, event.flow))
                if event.end:
                    self.complete.add(event.stream)
            elif isinstance(event, Trailers):
                assert event.headers == TRAILERS
                self.complete.add(event.stream)
            elif isinstance(event, Writable):
                self.waits.remove(event.stream)
            else:
                raise AssertionError(event)

    def settle(self) -> None:
        """Give back what is owed, or some of it."""
        while self.owed and self.random.random() < 0.7:
            self.connection.credit(*self.owed.pop(self.random.randrange(len(self.owed))))


SIZES = st.sampled_from([0, 1, 1_000, 16_384, 16_385, 65_535, 65_536, 200_000])
WINDOWS = st.sampled_from([1, 7, 1_000, 16_384, 65_535, 65_536, 262_144])


@settings(max_examples=tries(150))
@given(
    bodies=st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=4),
    windows=st.tuples(WINDOWS, WINDOWS),
    connection_windows=st.tuples(st.sampled_from([65_535, 100_000]), st.sampled_from([65_535, 2**20])),
    frame_bytes=st.sampled_from([16_384, 30_000, 250_000]),
    seed=st.integers(0, 2**32),
)
def test_bodies_arrive(
    bodies: list[tuple[int, int]],
    windows: tuple[int, int],
    connection_windows: tuple[int, int],
    frame_bytes: int,
    seed: int,
) -> None:
    random = Random(seed)
    # A tiny window takes very many frames: keep what is carried through it small, and floods out of the picture.
    bodies = [(min(up, windows[0] * 200), min(down, windows[1] * 200)) for up, down in bodies]
    calm = {"control_burst": 10**9, "output_bytes": 10**9, "frame_bytes": frame_bytes}
    server = End(
        H2Connection(
            Role.SERVER, Limits(stream_window=windows[0], connection_window=connection_windows[0], **calm), 0.0
        ),
        random,
    )
    client = End(
        H2Connection(
            Role.CLIENT, Limits(stream_window=windows[1], connection_window=connection_windows[1], **calm), 0.0
        ),
        random,
    )
    ups, downs = {}, {}
    for number, (up, down) in enumerate(bodies):
        stream = client.connection.send_request(b"POST", b"http", b"a", b"/", (), False, up if number % 2 else None)
        ups[stream], downs[stream] = random.randbytes(up), random.randbytes(down)
    client.to_send.update(ups)

    wires = {Role.SERVER: b"", Role.CLIENT: b""}
    for _ in range(20_000):
        for end, other in ((client, server), (server, client)):
            role = end.connection._role
            end.send()
            end.settle()
            wire = wires[role] + end.connection.take_output()
            size = random.choice((5, 1_000, 65_536, len(wire)))
            wires[role] = wire[size:]
            if wire:
                other.take(wire[:size], downs)
        if len(client.complete) == len(server.complete) == len(bodies) and not client.waits | server.waits:
            break
    assert server.taken == ups
    assert client.taken == downs
    for end, window in ((server, connection_windows[0]), (client, connection_windows[1])):
        for owed in end.owed:
            end.connection.credit(*owed)
        # Every byte of the window is at the peer's disposal or about to be given back.
        assert end.connection._room + end.connection._owed == window
    assert client.connection.is_idle
    assert server.connection.is_idle
