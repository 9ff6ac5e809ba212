"""Every work there is, in the order they are run."""

from __future__ import annotations

from fnmatch import fnmatchcase

from benchmarks.peers.peer import Rules
from benchmarks.peers.traces import OWN_TRACES
from benchmarks.works.bodies import BodiesWork
from benchmarks.works.capacity import CapacityWork
from benchmarks.works.cpu import CpuWork
from benchmarks.works.crosscheck import CrosscheckWork
from benchmarks.works.handshakes import HandshakesWork
from benchmarks.works.latency import LatencyWork
from benchmarks.works.memory import IdleWork, WorkedWork
from benchmarks.works.overload import OverloadWork
from benchmarks.works.sizes import SizesWork
from benchmarks.works.start import StartWork
from benchmarks.works.telemetry import TelemetryWork
from benchmarks.works.work import Traffic, Work

REST = ("direct", "envoy", "meshproxy", "aiohttp")
GRPC = ("direct", "envoy", "envoy-fields", "meshproxy", "grpc.aio")
PROXIES = ("envoy", "meshproxy")
GRPC_PROXIES = ("envoy", "envoy-fields", "meshproxy")
LARGE_GRPC = ("direct", "envoy", "envoy-fields-64m", "meshproxy", "grpc.aio")
"""For messages that `envoy-fields` refuses: see the work `sizes-grpc`."""
HOPS = ("direct", "envoy", "meshproxy")
TRACES = ("envoy", "envoy-traces", "meshproxy", *(peer.name for peer in OWN_TRACES))
RATES = (100, 500, 1_000, 2_000)


def catalogue() -> list[Work]:
    """All works."""
    works: list[Work] = [
        CpuWork("cpu-rest", Traffic("rest", connections=16), REST),
        CpuWork("cpu-rest-10k", Traffic("rest", 10_000, 10_000, connections=16), REST),
        CpuWork("cpu-grpc", Traffic("grpc", connections=1, streams=16), GRPC),
        CpuWork("cpu-grpc-1", Traffic("grpc", connections=1, streams=1), GRPC),
        CpuWork("cpu-grpc-16c", Traffic("grpc", connections=16, streams=1), GRPC),
        CpuWork("cpu-grpc-100", Traffic("grpc", connections=1, streams=100), GRPC),
        CpuWork("cpu-grpc-64c", Traffic("grpc", connections=64, streams=1), GRPC),
        CpuWork("cpu-grpc-10k", Traffic("grpc", 10_000, 10_000, connections=1, streams=16), GRPC),
        CpuWork("rules-rest-10", Traffic("rest", connections=16), PROXIES, Rules(10, 10)),
        CpuWork("rules-rest-10000", Traffic("rest", connections=16), PROXIES, Rules(10_000, 1_000)),
        CpuWork("rules-grpc-10", Traffic("grpc", streams=16), GRPC_PROXIES, Rules(10, 10)),
        CpuWork("rules-grpc-10000", Traffic("grpc", streams=16), GRPC_PROXIES, Rules(10_000, 1_000)),
    ]
    for rate in RATES:
        works.append(LatencyWork(f"latency-rest-{rate}", Traffic("rest", connections=16), REST, rate=rate))
        works.append(LatencyWork(f"latency-grpc-{rate}", Traffic("grpc", connections=4, streams=100), GRPC, rate=rate))
    mib = 2**20
    for name, size, in_flight, grpc in (("1m", mib, 4, GRPC), ("16m", 16 * mib, 2, LARGE_GRPC)):
        works.append(BodiesWork(f"bytes-rest-{name}", Traffic("rest", size, size, connections=in_flight), REST))
        works.append(BodiesWork(f"bytes-grpc-{name}", Traffic("grpc", size, size, streams=in_flight), grpc))
    for name, size in (("1m", mib), ("16m", 16 * mib)):
        in_flight_32 = Traffic("grpc", size, size, connections=4, streams=8)
        works.append(BodiesWork(f"peak-rest-{name}", Traffic("rest", size, size, connections=32), PROXIES))
        works.append(BodiesWork(f"peak-grpc-{name}", in_flight_32, ("envoy", "envoy-fields-64m", "meshproxy")))
    works.append(SizesWork("sizes-grpc", Traffic("grpc"), (*GRPC_PROXIES, "envoy-fields-64m")))
    for protocol, peers in (("rest", REST), ("grpc", GRPC)):
        works.append(CapacityWork(f"capacity-{protocol}", Traffic(protocol, connections=64, streams=1), peers))
    works += [
        OverloadWork("overload-grpc", Traffic("grpc", connections=8, streams=1_000), GRPC_PROXIES),
        HandshakesWork("handshakes", Traffic("grpc"), ("envoy", "meshproxy", "grpc.aio")),
        StartWork("start", Traffic("rest"), PROXIES),
        WorkedWork("rss", Traffic("rest", connections=100), ("envoy", "meshproxy", "aiohttp", "grpc.aio")),
        IdleWork("idle-rest", Traffic("rest", connections=5_000), ("envoy", "meshproxy", "aiohttp")),
        IdleWork("idle-grpc", Traffic("grpc", connections=5_000), ("envoy", "meshproxy", "grpc.aio")),
        IdleWork("idle-rest-40k", Traffic("rest", 40_000, connections=1_000), ("envoy", "meshproxy")),
        IdleWork("idle-grpc-40k", Traffic("grpc", 40_000, connections=1_000), ("envoy", "meshproxy")),
    ]
    for protocol, traffic in (("rest", Traffic("rest", connections=16)), ("grpc", Traffic("grpc", streams=16))):
        works += [
            CpuWork(f"hops-{protocol}", traffic, HOPS, hops=2),
            LatencyWork(f"hops-{protocol}-500", traffic, HOPS, rate=500, hops=2),
            # What balancing, breakers, deadlines and retries cost a request that needs none of them.
            CpuWork(f"resilience-{protocol}-off", traffic, ("meshproxy",), resilience="off"),
            CpuWork(f"resilience-{protocol}-on", traffic, ("meshproxy",), resilience="on"),
        ]
    works += [
        TelemetryWork("telemetry-rest", Traffic("rest", connections=16), TRACES),
        TelemetryWork("telemetry-grpc", Traffic("grpc", streams=16), TRACES),
        # One worker and two of the same load: req/s of the second over the first is what a core more brings.
        CpuWork("workers-rest-1", Traffic("rest", connections=64), PROXIES),
        CpuWork("workers-rest-2", Traffic("rest", connections=64), PROXIES, workers=2),
        # The same where there are two cores for all: what a worker more costs each request.
        CpuWork("workers-cpu-1", Traffic("rest", connections=64), PROXIES, shares_cores=True),
        CpuWork("workers-cpu-2", Traffic("rest", connections=64), PROXIES, workers=2, shares_cores=True),
        CrosscheckWork("crosscheck-rest", Traffic("rest", connections=16), ("envoy",)),
        CrosscheckWork("crosscheck-grpc", Traffic("grpc", streams=16), ("envoy",)),
    ]
    return works


def chosen(patterns: list[str]) -> list[Work]:
    """The works whose names match one of the patterns (`cpu-*`); all if there are none.

    Raises:
        ValueError: a pattern matches nothing. The message lists what there is.
    """
    works = catalogue()
    for pattern in patterns:
        if not any(fnmatchcase(work.name, pattern) for work in works):
            raise ValueError(f"unknown work {pattern!r}; choose from: {', '.join(work.name for work in works)}")
    return [work for work in works if not patterns or any(fnmatchcase(work.name, pattern) for pattern in patterns)]
