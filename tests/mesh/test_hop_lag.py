"""The hop lag of a running model server, whose page the first of two workers reads."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from meshproxy.devtools.clients import Answer, GrpcClient, RestClient
from meshproxy.devtools.local_mesh import local_mesh, read_series
from tests.processes.calls import PATH, PREDICT, REQUEST
from tests.processes.waiting import until
from tests.sidecar.test_supervisor import two_free_ports

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

LATENCY = 0.02
CONNECTIONS = 10
"""Over REST and over gRPC each, so that both workers get some."""
CALLS = 3
"""On each connection: 60 in all, one reading."""
PARTS = ("model", "network", "proxy", "client")
LABEL = 'model="half_plus_two"'


async def test_where_the_time_of_calls_goes(tmp_path: Path) -> None:
    port = two_free_ports()
    async with local_mesh(tmp_path / "m") as mesh:
        replica = await mesh.replica(
            *("--latency-ms", f"{LATENCY * 1000:g}"),
            mesh={"telemetry": {"modelServer": {"interval": "1s"}}},
            sidecar={"workers": 2, "admin": {"listen": "127.0.0.1:0", "firstWorkerPort": port}},
        )
        assert replica.sidecar is not None
        inbound = replica.sidecar.inbound
        first, second = f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"

        async def has_read() -> bool:
            page = await read_series(first, "/metrics")
            return page.get('meshproxy_model_server_pages_total{result="ok"}', 0.0) > 0

        async def is_known() -> bool:
            return f"meshproxy_hop_lag_seconds{{{LABEL}}}" in await read_series(first, "/metrics")

        slowest = 0.0  # seconds of a call, for its caller

        def took(answer: Answer, status: str) -> None:
            nonlocal slowest
            assert answer.status == status
            slowest = max(slowest, answer.seconds)

        async def over_rest() -> None:
            async with RestClient(inbound, mesh.client) as client:
                for _ in range(CALLS):
                    took(await client.call("POST", PATH, {"instances": [1.0]}), "200")

        async def over_grpc() -> None:
            async with GrpcClient(inbound, mesh.client) as client:
                for _ in range(CALLS):
                    took(await client.call(PREDICT, REQUEST), "OK")

        async def call() -> None:
            await asyncio.gather(*(each() for each in (over_rest, over_grpc) for _ in range(CONNECTIONS)))

        await until(has_read)
        await call()  # the first worker learns the model's name, and an interval begins with the next page
        while not await is_known():
            await call()
            await asyncio.sleep(0.5)
        page = await read_series(first, "/metrics")
        shares = {part: page[f'meshproxy_call_time_ratio{{{LABEL},part="{part}"}}'] for part in PARTS}
        assert sum(shares.values()) == pytest.approx(1.0)
        assert all(shares[part] > 0 for part in PARTS[:3])
        # However busy the machine is, the model has its latency of each call, and no call took longer than the slowest.
        assert 0.9 * LATENCY / slowest < shares["model"] < 1
        assert page[f"meshproxy_hop_lag_alarm{{{LABEL}}}"] == 0
        assert not any(
            series.startswith("meshproxy_hop_lag_seconds") for series in await read_series(second, "/metrics")
        )
