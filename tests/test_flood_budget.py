"""Cheap input that costs much: Python calls for each byte and in one callback, and what stays in memory.

A client without any right sends 300 KB of each flood in reads of 96 KiB. Python calls do not depend on the machine; a
thousand take about half a millisecond, and an ordinary REST or gRPC request some two hundred for as many bytes.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from itertools import count, repeat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meshproxy.codec.events import Data
from meshproxy.codec.grpc import frame
from meshproxy.codec.h2 import frames
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.h2.frames import DATA, HEADERS
from meshproxy.codec.h2.hpack import encode_field, write_integer
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from meshproxy.config import fields, schema
from meshproxy.inference.unary import write_bytes, write_text
from meshproxy.policy.compile import compile_policy
from meshproxy.telemetry.line_writer import LineWriter
from meshproxy.transport.h1_server import H1Server
from meshproxy.transport.h2_server import H2Server
from meshproxy.transport.turns import Turns
from tests.test_request_budget import Bench, Wire, ask, grpc

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

READ = 98_304
SENT = 300_000
CALLS_IN_A_CALLBACK = 120_000
"""50 ms: what it takes to end 1,024 open requests with their connection. Nothing else comes near."""
CALLS_IN_A_SLICE = 30_000
"""Of what a server sends: one read of one-byte frames has 187,000. The most are of the first slice of answers with many
trailers, 19,000."""
CALLS_FOR_A_BYTE = 5.0
"""DATA frames of one byte, which have ten on the wire."""
HELD_FOR_A_BYTE = 10
HELD_BY_INFLATERS = 10 << 20
"""By 200 bodies that are being inflated, and their requests."""

START = frames.PREFACE + frames.settings([]) + frames.SETTINGS_ACK
GRPC = ((b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-encoding", b"gzip"))
PREDICT = b"/tensorflow.serving.PredictionService/Predict"
MULTI_INFERENCE = b"/tensorflow.serving.PredictionService/MultiInference"
RELOAD = b"/tensorflow.serving.ModelService/HandleReloadConfigRequest"
SECRET = write_bytes(1, write_text(1, "secret"))


def head(stream: int, path: bytes, *more: tuple[bytes, bytes], end: bool = False) -> bytes:
    """A request by static references and literals, so that its bytes do not depend on those before."""
    block = b"\x83\x86\x04" + write_integer(len(path), 0x7F, 0) + path + b"\x01\x01a"
    return frames.frame(HEADERS, 4 | end, stream, block + b"".join([encode_field(*field) for field in more]))


def data(stream: int, payload: bytes, *, end: bool = False) -> bytes:
    return frames.frame(DATA, int(end), stream, payload)


def body(stream: int, payload: bytes) -> bytes:
    parts = [payload[at : at + 16_384] for at in range(0, len(payload), 16_384)]
    return b"".join(data(stream, part, end=part is parts[-1]) for part in parts)


def one_byte_frames() -> Iterator[bytes]:
    """On a hundred streams, and no model is ever named."""
    streams = range(1, 201, 2)
    yield b"".join(head(stream, PREDICT, *GRPC) for stream in streams)
    yield b"".join(data(stream, b"\0\0\x7f\0\0\x12\x80\x80\x80\x03") for stream in streams)
    while True:
        yield b"".join(data(stream, b"x") for stream in streams)


def tasks_one_by_one() -> Iterator[bytes]:
    """On two streams in turn, so that each is a piece of its own."""
    tasks = [write_bytes(1, write_bytes(1, write_text(1, f"m{number}"))) for number in range(900)]
    size = len(b"".join(tasks)).to_bytes(4, "big")
    for first in count(1, 4):
        pair = (first, first + 2)
        yield b"".join(head(stream, MULTI_INFERENCE, *GRPC) + data(stream, b"\0" + size) for stream in pair)
        yield b"".join(data(stream, task) for task in tasks for stream in pair)
        yield b"".join(frames.rst_stream(stream, 8) for stream in pair)


def tasks_together() -> Iterator[bytes]:
    message = frame(b"".join(write_bytes(1, write_bytes(1, write_text(1, f"m{number}"))) for number in range(900)))
    for stream in count(1, 2):
        yield head(stream, MULTI_INFERENCE, *GRPC) + body(stream, message)


def last_bytes_together(path: bytes, named: bytes) -> Callable[[], Iterator[bytes]]:
    """Twenty bodies are kept until their last bytes, which come in one read."""
    message = frame(named)

    def sent() -> Iterator[bytes]:
        for first in count(1, 40):
            streams = range(first, first + 40, 2)
            for stream in streams:
                yield head(stream, path, *GRPC) + data(stream, message[:-1])
            yield b"".join(data(stream, message[-1:], end=True) for stream in streams)

    return sent


def requests() -> Iterator[bytes]:
    for stream in count(1, 2):
        yield head(stream, b"/v1/models/m", end=True)


def references() -> Iterator[bytes]:
    for stream in count(1, 2):
        yield frames.frame(HEADERS, 5, stream, b"\x83\x86\x84\x01\x01a" + b"\x90" * 16_000)


def moving_windows() -> Iterator[bytes]:
    """Each SETTINGS moves the windows of a thousand streams."""
    yield b"".join(head(stream, PREDICT, *GRPC) for stream in range(1, 2_001, 2))
    for number in count():
        yield frames.settings([(frames.INITIAL_WINDOW_SIZE, 65_535 + number % 2)])


def bodies(payload: bytes) -> Callable[[], Iterator[bytes]]:
    def sent() -> Iterator[bytes]:
        for stream in count(1, 2):
            yield head(stream, PREDICT, *GRPC) + body(stream, payload)

    return sent


def half_sent() -> Iterator[bytes]:
    """A thousand compressed bodies that have just begun: zlib takes 40 KB for each."""
    start = compressed(write_bytes(2, bytes(100_000)))[:60]
    for stream in count(1, 2):
        yield head(stream, PREDICT, *GRPC) + data(stream, start)


def compressed(message: bytes) -> bytes:
    return frame(gzip.compress(message), compressed=True)


FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    "one byte": one_byte_frames,
    "tasks": tasks_one_by_one,
    "tasks together": tasks_together,
    "versions": last_bytes_together(PREDICT, write_bytes(1, write_text(1, "m") + write_bytes(2, b"\x08\1") * 3_500)),
    "configurations": last_bytes_together(RELOAD, write_bytes(1, b"") * 8_000),
    "lists of configurations": last_bytes_together(RELOAD, write_bytes(1, write_bytes(1, b"") * 8_000)),
    "requests": requests,
    "references": references,
    "windows": moving_windows,
    "tiny messages": bodies(frame(SECRET) * 1_000),
    "tiny fields": bodies(frame(SECRET + b"\x18\x00" * 16_000)),
    "compressed fields": bodies(compressed(SECRET + b"\x18\x00" * 15_000) * 100),
    "bombs that name a model": bodies(compressed(SECRET + write_bytes(2, bytes(16 << 20)))),
    "half-sent": half_sent,
    "bombs that name none": bodies(compressed(write_bytes(2, bytes(16 << 20)))),
}


REST_HEAD = b"GET /v1/models/m HTTP/1.1\r\nhost: x\r\n"


def pipelined(request: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: repeat(request)


def chunks() -> Iterator[bytes]:
    """Two in a row never have the same size."""
    yield b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    yield from repeat(b"1\r\nx\r\n2\r\nxx\r\n")


def heads_of_many_fields() -> Iterator[bytes]:
    """Of which none is remembered."""
    for number in count():
        yield REST_HEAD + b"".join([b"%d-%d:\r\n" % (field, number) for field in range(127)]) + b"\r\n"


HTTP_1_FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    "HTTP/1.1 requests": pipelined(REST_HEAD + b"\r\n"),
    "HTTP/1.1 chunks": chunks,
    "HTTP/1.1 fields": heads_of_many_fields,
}
FLOODS |= HTTP_1_FLOODS

ANSWER = b"\x88" + encode_field(b"content-type", b"application/grpc")
TRAILERS = b"".join(encode_field(b"x-%03d" % number, b"v") for number in range(120)) + encode_field(
    b"grpc-status", b"0"
)


def one_byte_answers(streams: Sequence[int]) -> Iterator[bytes]:
    yield b"".join(frames.frame(HEADERS, 4, stream, ANSWER) for stream in streams)
    while True:
        yield b"".join(data(stream, b"x") for stream in streams)


def padded_answers(streams: Sequence[int]) -> Iterator[bytes]:
    yield b"".join(frames.frame(HEADERS, 4, stream, ANSWER) for stream in streams)
    while True:
        yield b"".join(frames.frame(DATA, frames.PADDED, stream, b"\x00x") for stream in streams)


def long_trailers(streams: Sequence[int]) -> Iterator[bytes]:
    for stream in streams:
        yield frames.frame(HEADERS, 4, stream, ANSWER) + frames.frame(HEADERS, 5, stream, TRAILERS)


SERVER_FLOODS: dict[str, tuple[int, Callable[[Sequence[int]], Iterator[bytes]]]] = {
    "one-byte DATA": (20, one_byte_answers),
    "padded DATA": (200, padded_answers),
    "trailers": (300, long_trailers),
}
"""What a server sends, and to how many calls."""


class Cost:
    """Python calls of callbacks."""

    def __init__(self) -> None:
        self.total = self.most = self._now = 0

    def of(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Call it, and count."""
        self._now = 0
        sys.setprofile(self._count)
        try:
            callback(*arguments)
        finally:
            sys.setprofile(None)
        self.total += self._now
        self.most = max(self.most, self._now)

    def _count(self, frame: object, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            self._now += 1


class Socket(Wire):
    """Of a peer: it may not be read, and it may be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.is_reading = True
        self.is_closed = False

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def get_extra_info(self, name: str) -> None:
        return None

    def abort(self) -> None:
        self.is_closed = True

    def can_write_eof(self) -> bool:
        return False


def denying(bench: Bench) -> None:
    """There is a role, and nobody has it."""
    role = schema.ModelRole(
        metadata=fields.Metadata(name="r"),
        spec=schema.RoleSpec(rules=(schema.Rule(models=("x",), verbs=("predict",)),)),
    )
    policy = compile_policy([role], (), "dev.example")
    bench.pipeline.snapshot = msgspec.structs.replace(bench.pipeline.snapshot, policy=policy)


async def flood(bench: Bench, name: str, run: Callable[..., None]) -> int:
    """Send a flood over as many connections as it takes: a closed one is replaced. Returns how many bytes were read."""
    driver, protocol = (H1Server, "HTTP/1.1") if name in HTTP_1_FLOODS else (H2Server, "HTTP/2")
    sent = 0
    while sent < SENT:
        socket = Socket()
        server = driver(bench.shared, bench.info("inbound", protocol), bench.pipeline.serve, bench.pipeline.reject)
        server.attach(socket)  # type: ignore[arg-type]
        pending, pieces = START if driver is H2Server else b"", FLOODS[name]()
        while sent < SENT and not socket.is_closed:
            while len(pending) < READ:
                pending += next(pieces)
            run(server.data_received, pending[:READ])
            pending = pending[READ:]
            sent += READ
            await asyncio.sleep(0)
            while not socket.is_reading and not socket.is_closed:
                await asyncio.sleep(0)
            socket.take()
        if socket.is_closed:
            run(server.connection_lost, None)
    return sent


@pytest.fixture
def bench_of(tmp_path: Path) -> Iterator[Callable[[], Bench]]:
    sinks: list[LineWriter] = []

    def make() -> Bench:
        sinks.append(LineWriter.file(tmp_path / "access.log"))
        bench = Bench(sinks[-1])
        denying(bench)
        return bench

    yield make
    for sink in sinks:
        sink.close()


@pytest.mark.parametrize("name", FLOODS)
async def test_work(bench_of: Callable[[], Bench], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    cost = Cost()
    take_turn, go_on = Turns._next, H1Server._continue
    monkeypatch.setattr(Turns, "_next", lambda turns: cost.of(take_turn, turns))
    monkeypatch.setattr(H1Server, "_continue", lambda server: cost.of(go_on, server))
    sent = await flood(bench_of(), name, cost.of)
    assert cost.most <= CALLS_IN_A_CALLBACK
    assert cost.total <= CALLS_FOR_A_BYTE * sent


@pytest.mark.parametrize("name", SERVER_FLOODS)
async def test_work_of_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A callback is a slice of a read."""
    cost = Cost()
    take_turn = Turns._next
    monkeypatch.setattr(Turns, "_next", lambda turns: cost.of(take_turn, turns))
    sink = LineWriter.file(tmp_path / "access.log")
    bench = Bench(sink)
    bench.server_side = socket = Socket()
    server, client = grpc(bench)
    caller, model = (H2Connection(role, Limits(), 0.0) for role in (Role.CLIENT, Role.SERVER))
    client.data_received(model.take_output())  # how many streams it takes
    caller.receive(server.codec.take_output(), 0.0)
    calls, flood = SERVER_FLOODS[name]
    for _ in range(calls):
        ask(caller, b"")
    server.data_received(caller.take_output())
    while server.codec.has_more:
        await asyncio.sleep(0)
    bench.shared.outbox.flush()
    model.slice_frames = 10_000
    asked = [event.stream for event in model.receive(socket.take(), 0.0) if isinstance(event, Data)]
    assert len(asked) == calls
    pending, pieces, sent = b"", flood(asked), 0
    while sent < SENT:
        while len(pending) < READ and (piece := next(pieces, b"")):
            pending += piece
        if not pending:
            break
        cost.of(client.data_received, pending[:READ])
        pending = pending[READ:]
        sent += READ
        while not socket.is_reading:
            await asyncio.sleep(0)
        assert not client.is_closing
        bench.client_side.take()
    assert cost.most <= CALLS_IN_A_SLICE
    sink.close()


@pytest.mark.parametrize("name", FLOODS)
async def test_memory(bench_of: Callable[[], Bench], name: str) -> None:
    bench = bench_of()
    gc.disable()  # nothing may have to wait for it
    tracemalloc.start()
    try:
        sent = await flood(bench, name, lambda callback, *arguments: callback(*arguments))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        gc.enable()
    assert held <= (HELD_BY_INFLATERS if name in ("half-sent", "bombs that name none") else HELD_FOR_A_BYTE * sent)
