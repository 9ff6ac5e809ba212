"""The figures of 0001 that `make bench` does not give: our HTTP/2 beside the h2 package, and what libraries weigh.

`python docs/decisions/figures/codecs.py` (needs the extra `dev`): CPU time of the server's end of one unary gRPC call,
the least of nine runs; resident memory of a fresh process.
"""
# ruff: noqa: S603, T201

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from h2.config import H2Configuration
from h2.connection import H2Connection as PackagedConnection
from h2.events import DataReceived, RequestReceived, StreamEnded

from meshproxy.codec.events import Data, RequestHead
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role

RUNS = 9
CALLS = 1_000
REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/tensorflow.serving.PredictionService/Predict"),
    (":authority", "127.0.0.1:18500"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
    ("user-agent", "grpc-python-asyncio/1.85.1 grpc-c/55.0.0 (linux; chttp2)"),
    ("grpc-accept-encoding", "identity, deflate, gzip"),
    ("authorization", "Bearer " + "t" * 700),
]
RESPONSE = ((b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity, deflate, gzip"))
TRAILERS = ((b"grpc-status", b"0"),)
BODY = b"\0\0\0\0\x1e" + b"m" * 30


def calls(*, are_traced: bool) -> list[bytes]:
    """What a client sends: its preface, then one call each, alike or each with a trace of its own."""
    client = PackagedConnection(H2Configuration(client_side=True))
    client.initiate_connection()
    pieces = [client.data_to_send()]
    for number in range(CALLS):
        trace = [("traceparent", f"00-{number:032x}-{number:016x}-01")] if are_traced else []
        stream = client.get_next_available_stream_id()
        client.send_headers(stream, REQUEST + trace)
        client.send_data(stream, BODY, end_stream=True)
        pieces.append(client.data_to_send())
        client.reset_stream(stream)  # so that it has room for the next one; never sent
        client.clear_outbound_data_buffer()
    return pieces


def ours(pieces: list[bytes]) -> int:
    connection = H2Connection(Role.SERVER, Limits(), 0.0)
    answered = 0
    for piece in pieces:
        for event in connection.receive(piece, 0.0):
            if isinstance(event, RequestHead):
                connection.send_response(event.stream, 200, RESPONSE, end=False)
            elif isinstance(event, Data):
                connection.credit(event.stream, event.flow)
                if event.end:
                    connection.send_data(event.stream, BODY, end=False)
                    connection.send_trailers(event.stream, TRAILERS)
                    answered += 1
        connection.take_output()
    return answered


def packaged(pieces: list[bytes]) -> int:
    # Without the checks that only cost: our codec makes those of received heads, h2 makes them either way.
    configuration = H2Configuration(client_side=False, header_encoding=None, validate_outbound_headers=False)
    connection = PackagedConnection(configuration)
    connection.initiate_connection()
    answered = 0
    for piece in pieces:
        for event in connection.receive_data(piece):
            if isinstance(event, RequestReceived):
                connection.send_headers(event.stream_id, [(b":status", b"200"), *RESPONSE])
            elif isinstance(event, DataReceived):
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                connection.send_data(event.stream_id, BODY)
                connection.send_headers(event.stream_id, TRAILERS, end_stream=True)
                answered += 1
        connection.data_to_send()
    return answered


def least(serve: Callable[[list[bytes]], int], pieces: list[bytes]) -> float:
    """Microseconds of CPU for one call."""
    best = float("inf")
    for _ in range(RUNS):
        begin = time.process_time()
        answered = serve(pieces)
        best = min(best, time.process_time() - begin)
        assert answered == CALLS
    return best / CALLS * 1e6


WEIGHTS = (
    ("asyncio, ssl, uvloop", "import asyncio, ssl, uvloop"),
    ("the sidecar, all of it", "import uvloop, meshproxy.sidecar.__main__"),
    ("  + aiohttp, server and client", "import uvloop, meshproxy.sidecar.__main__, aiohttp.web"),
    ("  + grpc.aio", "import uvloop, meshproxy.sidecar.__main__, grpc.aio"),
    ("  + both", "import uvloop, meshproxy.sidecar.__main__, aiohttp.web, grpc.aio"),
)


def weigh(imports: str) -> float:
    """MB."""
    program = f"{imports}\nprint(open('/proc/self/status').read().split('VmRSS:')[1].split()[0])"
    return int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout) / 1024


def main() -> None:
    for name, are_traced in (("one like another", False), ("each with a trace of its own", True)):
        pieces = calls(are_traced=are_traced)
        print(f"calls, {name:30} ours {least(ours, pieces):6.1f} us, h2 {least(packaged, pieces):6.1f} us")
    for name, imports in WEIGHTS:
        print(f"{name:32} {weigh(imports):6.1f} MB")


if __name__ == "__main__":
    main()
