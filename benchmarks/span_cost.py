"""What traces cost a request, measured in one process without sockets: `python -m benchmarks.span_cost`.

First the calls that the proxy makes, on the record of one predict: beginning or continuing a trace, an id for the
attempt, a look at the finished exchange; and for those that are exported the record, its encoding and its share of the
export. CPU time, the fastest of several rounds.

Then the whole: REST requests through codec, pipeline, metrics and access log, as `tests/test_request_budget.py` counts
their calls, without spans, with those of 1 %, and with all. These take turns, so that other work on the machine
disturbs them alike, and the medians of the differences count. Works `telemetry-*` measure the same over sockets, beside
Envoy.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import uvloop

from meshproxy.codec.events import RequestHead
from meshproxy.config.telemetry import Keep
from meshproxy.devtools.load.varied import ids, vary_rest
from meshproxy.identity.caller import Caller, Token, Workload
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.proxy.exchange import AttemptRecord, Exchange, TraceContext
from meshproxy.telemetry.line_writer import LineWriter
from meshproxy.telemetry.otlp import encode_attributes, encode_request, encode_scope, encode_span
from meshproxy.telemetry.sampling import Sampler
from meshproxy.telemetry.span_record import SpanRecord, SpanRecorder, record_of
from meshproxy.telemetry.spans import spans_of
from meshproxy.telemetry.trace import Tracer, record_trace
from meshproxy.transport.connection_info import ConnectionInfo
from tests.test_request_budget import Bench, rest

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 25
CALLS = 2_000
BATCH = 512
PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
RATIO = 0.01
WHOLE_ROUNDS = 40
WHOLE_CALLS = 1_000
REQUEST = b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\naccept: */*\r\ncontent-length: 2\r\n\r\n{}"
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


def finished(is_grpc: bool) -> Exchange:
    """The record of a predict that went well."""
    target = b"/tensorflow.serving.PredictionService/Predict" if is_grpc else b"/v1/models/half_plus_two:predict"
    info = ConnectionInfo(
        direction="inbound",
        protocol="HTTP/2" if is_grpc else "HTTP/1.1",
        remote="10.0.0.1:40000",
        local="10.0.0.2:18500",
        server_name="models",
        tls_version="TLSv1.3",
    )
    exchange = Exchange(RequestHead(1, b"POST", b"models:18500", target, (), False), info, 1_000.0)
    exchange.is_grpc = is_grpc
    workload = Workload("spiffe://dev.example/ns/pricing/sa/quoter", "dev.example", "pricing", "quoter", 2e9)
    exchange.caller = Caller(workload, Token("corp", "alice", {}, 2e9))
    exchange.asked = exchange.forwarded = Call(Verb.PREDICT, (ModelRef("half_plus_two", None, None, ""),))
    exchange.rule, exchange.server, exchange.upstream = "finance-team", "local", "127.0.0.1:8500"
    exchange.status, exchange.grpc_status = 200, 0 if is_grpc else None
    exchange.decided, exchange.connected, exchange.first_byte, exchange.finished = 1000.1, 1000.2, 1000.3, 1000.4
    return exchange


def attempt(exchange: Exchange, span_id: bytes) -> AttemptRecord:
    """Its only one, with times that differ from call to call as real ones do."""
    now = time.monotonic()
    return AttemptRecord(
        "127.0.0.1:8500", now, now + 0.0001, now + 0.002, now + 0.003, None, False, 200, exchange.grpc_status, span_id
    )


def cost(call: Callable[[], object], calls: int = CALLS) -> float:
    """Microseconds of CPU of one call: of the fastest round."""
    fastest = float("inf")
    for _ in range(ROUNDS):
        begun = time.thread_time()
        for _ in range(calls):
            call()
        fastest = min(fastest, time.thread_time() - begun)
    return fastest / calls * 1e6


def measure(is_grpc: bool) -> dict[str, float]:
    """The parts of one request, in microseconds."""
    taken: list[SpanRecord] = []
    recorder = SpanRecorder(Keep(), taken.append, taken.append)
    tracer = Tracer(Sampler(RATIO), recorder)
    exchange = finished(is_grpc)
    carried, _ = tracer.begin()
    exchange.attempts = (attempt(exchange, tracer.span_id()),)
    figures = {
        "continue a trace": cost(lambda: tracer.carry(PARENT)),
        "begin a trace": cost(tracer.begin),
        "name an attempt": cost(lambda: tracer.attempt(carried)),
    }
    exchange.trace = TraceContext(carried.trace_id, b"1" * 16, carried.span_id, False, b"", recorder)
    figures["look whether it is kept"] = cost(lambda: record_trace(exchange))
    exchange.trace = TraceContext(carried.trace_id, b"1" * 16, carried.span_id, True, b"", recorder)
    figures["record"] = cost(lambda: record_trace(exchange))
    taken.clear()
    records = []
    for _ in range(BATCH):
        trace, _ = tracer.begin()
        trace.sampled = True
        exchange.attempts = (attempt(exchange, tracer.span_id()),)
        exchange.started = exchange.decided = time.monotonic()
        exchange.finished = exchange.started + 0.003
        records.append(record_of(exchange, trace))
    resource, scope = encode_attributes(1, (("service.name", "bench"),)), encode_scope("meshproxy", "1")

    def export() -> bytes:
        encoded = [encode_span(span) for record in records for span in spans_of(record, 1.7e9, tracer.span_id)]
        return encode_request(resource, scope, encoded)

    figures["encode, later"] = cost(export, 1) / BATCH
    figures["bytes"] = len(export()) / BATCH
    return figures


async def measure_whole() -> dict[str, float]:
    """What a REST request costs, in microseconds: the median without spans, and what they add."""
    taken: list[SpanRecord] = []
    recorder = SpanRecorder(Keep(), taken.append, taken.append)
    some, every = Tracer(Sampler(RATIO), recorder), Tracer(Sampler(1.0, follows_parent=False), recorder)
    writer = LineWriter.file(Path(os.devnull))
    benches = {"without": Bench(writer), "1 %": Bench(writer, some), "all": Bench(writer, every)}
    connections = {name: rest(bench) for name, bench in benches.items()}
    found: dict[str, list[float]] = {name: [] for name in benches}
    make = vary_rest(REQUEST, ids())
    for _ in range(WHOLE_ROUNDS):
        requests = [make() for _ in range(WHOLE_CALLS)]
        for name, bench in benches.items():
            server, client = connections[name]
            begun = time.thread_time()
            for request in requests:
                server.data_received(request)
                bench.shared.outbox.flush()
                bench.server_side.take()
                client.data_received(RESPONSE)
                bench.shared.outbox.flush()
                bench.client_side.take()
            encoded = [encode_span(span) for record in taken for span in spans_of(record, 1.7e9, some.span_id)]
            encode_request(b"", b"", encoded)
            taken.clear()
            found[name].append((time.thread_time() - begun) / WHOLE_CALLS * 1e6)
    writer.close()
    base = found.pop("without")
    added = {name: median([one - other for one, other in zip(each, base, strict=True)]) for name, each in found.items()}
    return {"without spans": median(base)} | {f"spans of {name} add": value for name, value in added.items()}


def main() -> None:
    """Print both protocols side by side, and the whole."""
    calls, grpc = measure(False), measure(True)
    print(f"{'us of CPU':28}{'REST':>8}{'gRPC':>8}")
    for name in calls:
        print(f"{name:28}{calls[name]:8.2f}{grpc[name]:8.2f}")
    for name, parts in (
        ("a request, not sampled", ("continue a trace", "name an attempt", "look whether it is kept")),
        ("a request, sampled", ("continue a trace", "name an attempt", "record", "encode, later")),
    ):
        print(f"{name:28}{sum(calls[part] for part in parts):8.2f}{sum(grpc[part] for part in parts):8.2f}")
    for name, value in uvloop.run(measure_whole()).items():
        print(f"the whole, {name:17}{value:8.2f}")


if __name__ == "__main__":
    main()
