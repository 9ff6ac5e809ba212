"""What readers of /tap and /stat cost a request.

`python docs/decisions/figures/taps.py`: CPU time of the observer for one request beyond what it takes without a reader,
in microseconds, the least of nine runs over requests of 40 models and 10 callers.
"""
# ruff: noqa: T201

from __future__ import annotations

import time
from collections.abc import Callable

from meshproxy.codec.events import RequestHead
from meshproxy.identity.caller import Caller, Token, Workload
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.proxy.exchange import AttemptRecord, Exchange
from meshproxy.telemetry import tap as tap_module
from meshproxy.telemetry.call_filter import CallFilter
from meshproxy.telemetry.call_stats import CallStats
from meshproxy.telemetry.json_lines import JsonLines
from meshproxy.telemetry.log_encoding import UtcClock
from meshproxy.telemetry.observer import Observer, Sink
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from meshproxy.telemetry.tap import Tap
from meshproxy.transport.connection_info import ConnectionInfo

RUNS = 9
REQUESTS = 20_000
NAMES = 40
CALLERS = 10


def made() -> list[Exchange]:
    """Finished exchanges: gRPC calls of 40 models by 10 callers, one after the other, 0.2 ms apart."""
    callers = [
        Caller(
            Workload(f"spiffe://dev.example/ns/pricing/sa/quoter-{number}", "dev.example", "pricing", "quoter", 2e9),
            Token("corp", f"alice-{number}", {}, 2e9),
        )
        for number in range(CALLERS)
    ]
    infos = [
        ConnectionInfo(direction="inbound", protocol="HTTP/2", remote=f"10.0.0.{number}:40000", local="10.0.0.2:18500")
        for number in range(CALLERS)
    ]
    head = (b"POST", b"models:18500", b"/tensorflow.serving.PredictionService/Predict")
    found = []
    for number in range(REQUESTS):
        begun = 1_000.0 + number * 0.000_2
        exchange = Exchange(
            RequestHead(1, *head, ((b"user-agent", b"grpc-python/1.85.1"),), False), infos[number % CALLERS], begun
        )
        exchange.is_grpc = True
        exchange.caller = callers[number % CALLERS]
        call = Call(Verb.PREDICT, (ModelRef(f"model-{number % NAMES}", None, None, "serving_default"),))
        exchange.asked = exchange.forwarded = call
        exchange.rule = "finance-team"
        exchange.upstream = "127.0.0.1:8500"
        exchange.attempts = (
            AttemptRecord("127.0.0.1:8500", begun, begun + 0.000_5, begun + 0.002, begun + 0.003, None, False),
        )
        exchange.status, exchange.grpc_status = 200, 0
        exchange.decided, exchange.connected = begun + 0.000_25, begun + 0.000_5
        exchange.first_byte, exchange.finished = begun + 0.002_5, begun + 0.003
        found.append(exchange)
    return found


def cost(exchanges: list[Exchange], readers: Callable[[], list[Sink]]) -> float:
    """Microseconds of CPU for one request, with metrics and these readers."""
    least = float("inf")
    for _ in range(RUNS):
        metrics = SidecarMetrics()
        observer = Observer(metrics.telemetry_failures, [metrics.requests.observe])
        for reader in readers():
            observer.admit(reader)
        begun = time.process_time()
        for exchange in exchanges:
            observer(exchange)
        least = min(least, time.process_time() - begun)
    return least / len(exchanges) * 1e6


def tap(rate: int, *fields: tuple[str, str]) -> Tap:
    return Tap(CallFilter(fields).takes, JsonLines(UtcClock(0.0)), rate)


def stats(*by: str, fields: tuple[tuple[str, str], ...] = ()) -> CallStats:
    return CallStats(CallFilter(fields).takes, by, 1.0, 0.0)


def main() -> None:
    tap_module.QUEUE_BYTES = 1 << 40  # its reader takes everything
    exchanges = made()
    nobody = cost(exchanges, list)
    print(f"nobody reads (metrics alone)                   {nobody:6.2f}")
    cases: list[tuple[str, Callable[[], list[Sink]]]] = [
        ("a tap with a filter that no call matches", lambda: [tap(100, ("model", "other*"))]),
        ("a tap at its rate of 100 a second (of 5,000)", lambda: [tap(100)]),
        ("a tap that shows every call", lambda: [tap(1_000_000)]),
        ("stat by model and version", lambda: [stats("model", "version")]),
        ("stat by caller", lambda: [stats("caller")]),
        (
            "stat by model, version, verb, caller and route",
            lambda: [stats("model", "version", "verb", "caller", "route")],
        ),
        ("four taps at their rate", lambda: [tap(100), tap(100), tap(100), tap(100)]),
    ]
    for name, readers in cases:
        print(f"+ {name:<45}{cost(exchanges, readers) - nobody:6.2f}")


if __name__ == "__main__":
    main()
