"""What another caller notices while a client without any right sends the floods of `tests/test_flood_budget.py` as fast
as they are read: figures, printed and held against a bound."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from meshproxy.devtools.load.generator import Driver, Run
from meshproxy.devtools.load.schedule import uniform
from meshproxy.devtools.load.target import Target, client_tls, grpc_slots, open_grpc, open_rest, rest_request
from meshproxy.devtools.local_mesh import local_mesh
from tests.figures.test_resilience import percentile
from tests.processes.calls import REQUEST
from tests.test_flood_budget import FLOODS

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(300)]

RATE = 200
"""Calls a second, of REST and of gRPC each."""
SECONDS = 4.0
MOST = 0.06
"""Seconds that all calls but one of a hundred may take: a flood has the processor for slices of 1 ms (decision 38)."""


async def calls(target: Target) -> tuple[Run, Run]:
    """Of a caller that has been there before the flood: of REST and of gRPC."""
    rest, grpc = Driver(), Driver()
    body = json.dumps({"instances": [1.0]}).encode()
    rests = await open_rest(target, rest_request(target, "/v1/models/half_plus_two:predict", body), 8, rest)
    grpcs = await open_grpc(target, REQUEST, 4, 16, grpc)
    starts = uniform(RATE, SECONDS)
    try:
        return await asyncio.gather(rest.run_open(list(rests), starts), grpc.run_open(grpc_slots(grpcs), starts))
    finally:
        for transport in [each.transport for each in rests] + [each.transport for each in grpcs]:
            transport.abort()


async def nothing() -> str:
    return ""


async def busy() -> str:
    """What flooder and sidecar take of the processors, taken by two processes that only compute: what others notice of
    the machine alone."""
    code = "import os, sys, time; os.nice(int(sys.argv[1])); end = time.monotonic() + float(sys.argv[2])\n"
    code += "while time.monotonic() < end: pass"
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(nice), f"{SECONDS + 0.3}")
        for nice in (5, 0)
    ]
    assert [await process.wait() for process in processes] == [0, 0]
    return "nothing sent, two processes compute"


async def flood(name: str, address: str, folder: Path) -> str:
    command = ("-m", "tests.figures.flooder", name, address, str(folder), f"{SECONDS + 0.3}")
    flooder = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    said, _ = await flooder.communicate()
    assert flooder.returncode == 0
    sent, connections = said.split()
    return f"{int(sent) / 1e6:.1f} MB on {int(connections)} connections"


async def test_others_are_served_during_each_flood(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica = await mesh.replica(sidecar={"accessLog": "off"})
        assert replica.sidecar is not None
        mesh.certificate("web", "stranger", name="stranger")
        address, folder = replica.sidecar.inbound, mesh.directory
        tls = client_tls(*(folder / name for name in ("ca.pem", "client.pem", "client-key.pem")), checks_name=False)
        host, _, port = address.rpartition(":")
        target = Target(host, int(port), tls)
        await calls(target)
        worst = 0.0
        others: dict[str, Callable[[], Awaitable[str]]] = {"quiet": nothing, "busy": busy}
        others |= {name: partial(flood, name, address, folder) for name in FLOODS}
        for name, other in others.items():
            (rest, grpc), sent = await asyncio.gather(calls(target), other())
            for run in (rest, grpc):
                assert run.is_clean, (name, run.errors, run.unanswered)
            p50, p99 = (max(percentile(run, share) * 1e3 for run in (rest, grpc)) for share in (0.5, 0.99))
            worst = max(worst, p99 / 1e3)
            print(f"{name:24} p50 {p50:6.2f} ms, p99 {p99:6.2f} ms {sent}")
        assert worst < MOST
