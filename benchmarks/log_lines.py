"""What a line of the access log costs, in each format: `python -m benchmarks.log_lines`.

CPU time of this process, the least of several rounds, for one request that differs from those before it in times, sizes
and ids; for one that was refused; and for one that a filter keeps out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle

from meshproxy.codec.events import RequestHead
from meshproxy.config.telemetry import AccessLogLines, Keep
from meshproxy.identity.caller import Caller, Token, Workload
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.proxy.exchange import AttemptRecord, Exchange, TraceContext
from meshproxy.proxy.time_split import split_time
from meshproxy.refusal import Reason, Refusal
from meshproxy.telemetry.ecs_lines import EcsLines
from meshproxy.telemetry.json_lines import JsonLines
from meshproxy.telemetry.log_encoding import UtcClock
from meshproxy.telemetry.log_filter import LogFilter
from meshproxy.telemetry.text_lines import TextLines
from meshproxy.transport.connection_info import ConnectionInfo

ROUNDS = 15
CALLS = 20_000
CONNECTION = ConnectionInfo(
    direction="inbound", protocol="HTTP/2", remote="10.0.0.1:40000", local="10.0.0.2:18500", tls_version="TLSv1.3"
)
CALLER = Caller(
    Workload("spiffe://dev.example/ns/pricing/sa/quoter", "dev.example", "pricing", "quoter", 2e9),
    Token("corp", "alice", {}, 2e9),
)
CALL = Call(Verb.PREDICT, (ModelRef("half_plus_two", None, None, "serving_default"),))


def make_exchange(number: int) -> Exchange:
    """A permitted gRPC call that took 3 ms."""
    started = 1_000.0 + number / 100
    headers = ((b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"user-agent", b"grpc-python/1.85.1"))
    head = RequestHead(1, b"POST", b"models:18500", b"/tensorflow.serving.PredictionService/Predict", headers, False)
    exchange = Exchange(head, CONNECTION, started)
    exchange.is_grpc = True
    exchange.caller = CALLER
    exchange.asked = exchange.forwarded = CALL
    exchange.rule, exchange.server, exchange.upstream = "finance-team", "local", "127.0.0.1:8500"
    exchange.trace = TraceContext(b"%032x" % (number * 7 + 1), b"", b"%016x" % (number * 11 + 1), False)
    exchange.status, exchange.grpc_status = 200, 0
    exchange.bytes_received, exchange.bytes_sent = 60 + number, 300 + number
    exchange.reading, exchange.read, exchange.decided = started + 0.000_02, started + 0.000_04, started + 0.000_06
    exchange.connected, exchange.first_byte = started + 0.000_1, started + 0.002_6 + number / 1e5
    exchange.finished = exchange.first_byte + 0.000_3
    ended = exchange.first_byte + 0.000_2
    exchange.attempts = (
        AttemptRecord(
            "127.0.0.1:8500", started + 0.000_07, exchange.connected, exchange.first_byte, ended, None, False
        ),
    )
    return exchange


def make_refused(number: int) -> Exchange:
    """One that a role refused."""
    exchange = make_exchange(number)
    exchange.refusal = Refusal(Reason.PERMISSION_DENIED, "No role permits this.", rule="default-deny")
    exchange.refused = exchange.started + 0.000_06
    exchange.decided = exchange.connected = exchange.first_byte = 0.0
    exchange.attempts, exchange.upstream, exchange.grpc_status = (), "", 7
    return exchange


def measure(function: Callable[[Exchange], object], exchanges: list[Exchange]) -> float:
    """Microseconds of a call, without the loop around it."""
    best = []
    for each in (function, len_of_nothing):
        rounds = []
        for _ in range(ROUNDS):
            following = cycle(exchanges)
            began = time.process_time()
            for _ in range(CALLS):
                each(next(following))
            rounds.append(time.process_time() - began)
        best.append(min(rounds) / CALLS * 1e6)
    return best[0] - best[1]


def len_of_nothing(exchange: Exchange) -> None:
    """What is measured beside: a call."""


def main() -> None:
    """Measure and print."""
    ordinary, refused = [make_exchange(number) for number in range(64)], [make_refused(number) for number in range(64)]
    print(f"{'microseconds a line':24}{'answered':>10}{'refused':>10}{'bytes':>8}")
    for name, lines in (("json", JsonLines), ("text", TextLines), ("ecs", EcsLines)):
        format_line = lines(UtcClock(1.7e9))
        times = measure(format_line, ordinary), measure(format_line, refused)
        print(f"{name:24}{times[0]:10.2f}{times[1]:10.2f}{len(format_line(ordinary[0])):8}")
    filters = {
        "ratio: 0.01": AccessLogLines(ratio=0.01),
        "ratio: 0, slowerThan": AccessLogLines(ratio=0.0, keep=Keep(errors=False, refusals=False, slower_than=1.0)),
        "models: [fraud-*]": AccessLogLines(models=("fraud-*",)),
    }
    print(f"{'microseconds a filter':24}")
    for name, settings in filters.items():
        print(f"{name:24}{measure(LogFilter(settings), ordinary):10.2f}")
    print(f"{'split_time':24}{measure(split_time, ordinary):10.2f}")


if __name__ == "__main__":
    main()
