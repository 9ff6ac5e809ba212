"""How long the API server waits for the injector: figures, printed and held against its target. They need a quiet
machine."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from benchmarks.processes import cpu_seconds
from meshproxy.devtools.child import CONTROL, Child
from tests.injection.pods import pod
from tests.injection.reviews import review

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(120)]

NAME = "meshproxy-injector.meshproxy.svc"
RATE = 100
"""Pods in a second."""
SECONDS = 20
WARM_UP = 50
TARGET = 0.020
"""Seconds, at the 99th percentile."""


def a_pod() -> Any:
    """As large as pods are when the API server has filled in their defaults: about 4 KB."""
    probe = {"httpGet": {"path": "/v1/models/fraud", "port": 8501, "scheme": "HTTP"}, "periodSeconds": 5}
    server = {
        "args": [f"--flag{number}=value-{number}" for number in range(20)],
        "env": [{"name": f"NAME_{number}", "value": "value"} for number in range(20)],
        "ports": [{"name": "grpc", "containerPort": 8500}, {"name": "rest", "containerPort": 8501}],
        "readinessProbe": probe, "livenessProbe": probe,
        "volumeMounts": [{"name": f"volume-{number}", "mountPath": f"/mnt/{number}"} for number in range(5)],
    }  # fmt: skip
    volumes = [{"name": f"volume-{number}", "emptyDir": {}} for number in range(5)]
    return pod(container=server, volumes=volumes, initContainers=[{"name": "fetch", "image": "fetch"}])


async def test_reviews_at_a_hundred_pods_a_second(tmp_path: Path) -> None:
    ports = ("--listen", "127.0.0.1:0", "--web", "127.0.0.1:0", "--webhook", "127.0.0.1:0")
    control = await Child.start(
        "control", *CONTROL, "run", "--folder", "state", "--trust-domain", "m.example", *ports,
        "--sidecar-image", "registry.example.com/meshproxy:0.1.0", directory=tmp_path,
    )  # fmt: skip
    os.sched_setaffinity(control.pid, {max(os.sched_getaffinity(0))})
    context = ssl.create_default_context(cafile=str(tmp_path / "state" / "authority.pem"))
    url = f"https://{control.listening['webhook']}/inject?timeout=5s"
    body = review(a_pod())
    latencies: list[float] = []

    async def ask(session: aiohttp.ClientSession, due: float) -> None:
        """One review; a late start counts."""
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        async with session.post(url, data=body, ssl=context, server_hostname=NAME) as answer:
            assert (await answer.json())["response"]["patchType"] == "JSONPatch"
        latencies.append(time.perf_counter() - due)

    try:
        async with aiohttp.ClientSession() as session:
            begin = time.perf_counter()
            await asyncio.gather(*(ask(session, begin + number / RATE) for number in range(WARM_UP)))
            latencies.clear()
            before = cpu_seconds(control.pid)
            begin = time.perf_counter()
            await asyncio.gather(*(ask(session, begin + number / RATE) for number in range(RATE * SECONDS)))
            spent = cpu_seconds(control.pid) - before
    finally:
        await control.stop()
    latencies.sort()
    middle, high = latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]
    print(
        f"{len(latencies)} reviews of {len(body)} bytes at {RATE}/s, one core: p50 {middle * 1e3:.1f} ms, "
        f"p99 {high * 1e3:.1f} ms, longest {latencies[-1] * 1e3:.1f} ms, CPU {spent / len(latencies) * 1e3:.2f} ms each"
    )
    assert high <= TARGET
