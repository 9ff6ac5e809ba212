"""Every work there is, in the order they are run."""

from __future__ import annotations

from fnmatch import fnmatchcase

from benchmarks.peers.peer import Rules
from benchmarks.works.cpu import CpuWork
from benchmarks.works.latency import LatencyWork
from benchmarks.works.work import Traffic, Work

REST = ("direct", "envoy", "meshproxy", "aiohttp")
GRPC = ("direct", "envoy", "meshproxy", "grpc.aio")
PROXIES = ("envoy", "meshproxy")
RATES = (100, 500, 1_000, 2_000)


def catalogue() -> list[Work]:
    """All works."""
    works: list[Work] = [
        CpuWork("cpu-rest", Traffic("rest", connections=16), REST),
        CpuWork("cpu-rest-10k", Traffic("rest", 10_000, 10_000, connections=16), REST),
        CpuWork("cpu-grpc", Traffic("grpc", connections=1, streams=16), GRPC),
        CpuWork("cpu-grpc-1", Traffic("grpc", connections=1, streams=1), GRPC),
        CpuWork("cpu-grpc-100", Traffic("grpc", connections=1, streams=100), GRPC),
        CpuWork("cpu-grpc-64c", Traffic("grpc", connections=64, streams=1), GRPC),
        CpuWork("cpu-grpc-10k", Traffic("grpc", 10_000, 10_000, connections=1, streams=16), GRPC),
        CpuWork("rules-rest-10", Traffic("rest", connections=16), PROXIES, Rules(10, 10)),
        CpuWork("rules-rest-10000", Traffic("rest", connections=16), PROXIES, Rules(10_000, 1_000)),
        CpuWork("rules-grpc-10", Traffic("grpc", streams=16), PROXIES, Rules(10, 10)),
        CpuWork("rules-grpc-10000", Traffic("grpc", streams=16), PROXIES, Rules(10_000, 1_000)),
    ]
    for rate in RATES:
        works.append(LatencyWork(f"latency-rest-{rate}", Traffic("rest", connections=16), REST, rate=rate))
        works.append(LatencyWork(f"latency-grpc-{rate}", Traffic("grpc", connections=4, streams=100), GRPC, rate=rate))
    return works


def chosen(patterns: list[str]) -> list[Work]:
    """The works whose names match one of the patterns (`cpu-*`); all if there are none.

    Raises:
        ValueError: a pattern matches nothing. The message lists what there is.
    """
    works = catalogue()
    for pattern in patterns:
        if not any(fnmatchcase(work.name, pattern) for work in works):
            raise ValueError(f"no work is called {pattern!r}; there are: {', '.join(work.name for work in works)}")
    return [work for work in works if not patterns or any(fnmatchcase(work.name, pattern) for pattern in patterns)]
