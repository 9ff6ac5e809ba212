"""What a request of the express lane takes without sockets: the conversation of tests/test_request_budget.py.

    PYTHONPATH=. python docs/decisions/figures/express_lane.py rest|grpc|grpc-indexed [REQUESTS [ROUNDS]]
    PYTHONPATH=. python docs/decisions/figures/express_lane.py instructions

The time is CPU of this process, the least of several rounds, client and model server of gRPC left out. Instructions do
not depend on what else a machine does: the difference of two runs by the difference of their requests,

    PYTHONPATH=. valgrind --tool=cachegrind --cache-sim=no python docs/decisions/figures/express_lane.py rest 1200 1

client and model server included. `instructions` counts those of the interpreter, which are the same on every machine:
the least of 60 requests, client and model server left out.
"""
# ruff: noqa: T201

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import uvloop

from meshproxy.codec.events import Data, Headers
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from meshproxy.telemetry.line_writer import LineWriter
from tests.proxy.express.call_rig import IndexingEncoder
from tests.test_request_budget import Bench, answer, ask, grpc, rest

HEADERS: Headers = ((b"content-type", b"application/grpc"), (b"user-agent", b"grpc-python/1.80"))
MESSAGE = b"\0\0\0\0\x05\x0a\x03\x0a\x01m"
PREDICT = b"/tensorflow.serving.PredictionService/Predict"
POST = (
    b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\naccept: */*\r\ncontent-length: 2\r\nx-request-id: %d\r\n\r\n{}"
)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


def time_rest(bench: Bench, requests: int) -> float:
    server, client = rest(bench)
    begun = time.process_time()
    for number in range(requests):
        server.data_received(POST % number)
        bench.shared.outbox.flush()
        client.data_received(ANSWER)
        bench.shared.outbox.flush()
        bench.server_side.written.clear()
        bench.client_side.written.clear()
    return time.process_time() - begun


def time_grpc(bench: Bench, requests: int, indexes: bool) -> float:
    """`indexes`: the client puts every field into the header table, as grpc-go does."""
    server, client = grpc(bench)
    caller, model = H2Connection(Role.CLIENT, Limits(), 0.0), H2Connection(Role.SERVER, Limits(), 0.0)
    if indexes:
        caller._encoder = IndexingEncoder()
    spent = 0.0
    for number in range(requests):
        request_id = b"x-request-id", b"%d" % number
        stream = caller.send_request(b"POST", b"https", b"x", PREDICT, (*HEADERS, request_id), False)
        caller.send_data(stream, MESSAGE, True)
        asked = caller.take_output()
        begun = time.process_time()
        server.data_received(asked)
        bench.shared.outbox.flush()
        spent += time.process_time() - begun
        for event in model.receive(bench.server_side.take(), 0.0):
            if isinstance(event, Data):
                model.credit(event.stream, event.flow)
                model.send_response(event.stream, 200, HEADERS[:1], False)
                model.send_data(event.stream, MESSAGE, False)
                model.send_trailers(event.stream, ((b"grpc-status", b"0"),))
        answered = model.take_output()
        begun = time.process_time()
        client.data_received(answered)
        bench.shared.outbox.flush()
        spent += time.process_time() - begun
        caller.receive(bench.client_side.take(), 0.0)
    return spent


class Instructions:
    """Counts the interpreter's instructions between `with` and its end."""

    def __enter__(self) -> Instructions:
        self.count = 0
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.count += event == "opcode"
        return self._trace


def count_rest(bench: Bench) -> int:
    server, client = rest(bench)
    counts = []
    for number in range(60):
        with Instructions() as instructions:
            server.data_received(POST % number)
            bench.shared.outbox.flush()
            client.data_received(ANSWER)
            bench.shared.outbox.flush()
        counts.append(instructions.count)
    return min(counts)


def count_grpc(bench: Bench) -> int:
    server, client = grpc(bench)
    caller, model = H2Connection(Role.CLIENT, Limits(), 0.0), H2Connection(Role.SERVER, Limits(), 0.0)
    counts = []
    for number in range(60):
        ask(caller, b"id-%d" % number)
        asked = caller.take_output()
        with Instructions() as asking:
            server.data_received(asked)
            bench.shared.outbox.flush()
        answer(model, bench.server_side.take())
        answered = model.take_output()
        with Instructions() as answering:
            client.data_received(answered)
            bench.shared.outbox.flush()
        caller.receive(bench.client_side.take(), 0.0)
        counts.append(asking.count + answering.count)
    return min(counts)


async def count() -> None:
    sink = LineWriter.file(Path("/dev/null"))
    print(f"instructions of a request: {count_rest(Bench(sink))} (REST), {count_grpc(Bench(sink))} (gRPC)")
    sink.close()


async def main(which: str, requests: int, rounds: int) -> None:
    least = float("inf")
    for _ in range(rounds):
        sink = LineWriter.file(Path("/dev/null"))
        bench = Bench(sink)
        spent = time_rest(bench, requests) if which == "rest" else time_grpc(bench, requests, which == "grpc-indexed")
        sink.close()
        least = min(least, spent / requests)
    print(f"{which}: {least * 1e6:.1f} us a request")


if __name__ == "__main__":
    which, requests, rounds = (*sys.argv[1:], *("rest", "400", "40")[len(sys.argv) - 1 :])
    uvloop.run(count() if which == "instructions" else main(which, int(requests), int(rounds)))
