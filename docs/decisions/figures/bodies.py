"""What a large body takes without sockets and TLS: CPU and calls of 16 MiB there and back, in reads of 96 KiB.

    PYTHONPATH=. python docs/decisions/figures/bodies.py rest|grpc [FRAME_BYTES [ROUNDS]]

The least of several rounds. Frames of the client and the model server are as large as given (gRPC's C core: as we
announce), ours as large as C core takes.
"""
# ruff: noqa: T201

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from meshproxy.codec.h2 import frames
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from meshproxy.telemetry.line_writer import LineWriter
from meshproxy.transport.connection import READ_BYTES
from tests.test_request_budget import Bench, Counter, grpc, rest

SIZE = 1 << 24
WINDOW = 1 << 30
PREDICT = b"/tensorflow.serving.PredictionService/Predict"
CONTENT = ((b"content-type", b"application/grpc"),)


def message() -> bytes:
    """A message with a model_spec and one tensor."""
    tensor = b"\x12" + _varint(SIZE) + bytes(SIZE)
    body = b"\x0a\x03\x0a\x01m" + tensor
    return b"\0" + len(body).to_bytes(4, "big") + body


def _varint(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out += bytes((number & 0x7F | 0x80,))
        number >>= 7
    return out + bytes((number,))


def framed(stream: int, body: bytes, size: int, end: bool) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    last = len(pieces) - 1
    return b"".join(
        frames.frame(frames.DATA, frames.END_STREAM if end and at == last else 0, stream, piece)
        for at, piece in enumerate(pieces)
    )


def reads(wire: bytes) -> list[bytes]:
    return [wire[at : at + READ_BYTES] for at in range(0, len(wire), READ_BYTES)]


def pass_through(bench: Bench, connection, pieces: list[bytes]) -> None:  # type: ignore[no-untyped-def]
    for piece in pieces:
        connection.data_received(memoryview(piece).tobytes())  # as `buffer_updated`
        bench.client_side.written.clear()
        bench.server_side.written.clear()
    bench.shared.outbox.flush()
    bench.client_side.written.clear()
    bench.server_side.written.clear()


def rest_round(bench: Bench) -> tuple[float, int]:
    server, client = rest(bench)
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % SIZE
    asked = b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % SIZE
    there, back = reads(asked + bytes(SIZE)), reads(head + bytes(SIZE))
    begun = time.process_time()
    pass_through(bench, server, there)
    pass_through(bench, client, back)
    return time.process_time() - begun, len(there) + len(back)


def grpc_round(bench: Bench, frame_bytes: int) -> tuple[float, int]:
    server, client = grpc(bench)
    peer = H2Connection(Role.CLIENT, Limits(), 0.0)
    stream = peer.send_request(b"POST", b"https", b"x", PREDICT, CONTENT, False)
    ready = frames.settings([(frames.INITIAL_WINDOW_SIZE, WINDOW), (frames.MAX_FRAME_SIZE, 1 << 22)])
    room = frames.window_update(0, WINDOW)
    head = peer.take_output()
    there = reads(framed(stream, message(), frame_bytes, True))
    server.data_received(head.replace(frames.settings([]), b"") + ready + room)
    bench.shared.outbox.flush()
    client.data_received(ready + room)
    bench.shared.outbox.flush()
    answerer = H2Connection(Role.SERVER, Limits(), 0.0)
    number = client.codec._next_stream
    answer = reads(
        frames.header_frames(number, answerer.encoder.response(200, CONTENT, None), False, 16_384)
        + framed(number, message(), frame_bytes, False)
        + frames.header_frames(number, b"\0\x0bgrpc-status\x010", True, 16_384)
    )
    begun = time.process_time()
    pass_through(bench, server, there)
    pass_through(bench, client, answer)
    return time.process_time() - begun, len(there) + len(answer)


async def main(kind: str, frame_bytes: int, rounds: int) -> None:
    with TemporaryDirectory() as folder:
        sink = LineWriter.file(Path(folder) / "log")
        spent, calls, steps = [], 0, 0
        for number in range(rounds + 1):
            bench = Bench(sink)
            if number == rounds:
                with Counter() as counter:
                    _, steps = rest_round(bench) if kind == "rest" else grpc_round(bench, frame_bytes)
                calls = counter.calls
            else:
                spent.append((rest_round(bench) if kind == "rest" else grpc_round(bench, frame_bytes))[0])
            await asyncio.sleep(0)
        megabytes = 2 * SIZE / 1e6
        print(
            f"{kind}: {min(spent) / megabytes * 1e6:.0f} us a MB, {calls / steps:.0f} calls for each of {steps} reads"
        )


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[2:]]
    uvloop.run(main(sys.argv[1], *(arguments + [16_384, 20][len(arguments) :])))
