"""The hop lag of a running model server, whose page the sidecar in front of it reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.devtools.clients import GrpcClient, RestClient
from meshproxy.devtools.local_mesh import local_mesh
from tests.processes.calls import PATH, PREDICT, REQUEST
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(120)]

LATENCY = 0.02
CALLS = 30
"""Over REST and over gRPC each: one reading."""
PARTS = ("model", "network", "proxy", "client")
LABEL = 'model="half_plus_two"'


async def test_where_the_time_of_calls_goes(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "m") as mesh:
        replica = await mesh.replica(
            "--latency-ms", f"{LATENCY * 1000:g}", mesh={"telemetry": {"modelServer": {"interval": "1s"}}}
        )
        sidecar = replica.sidecar
        assert sidecar is not None

        async def has_read() -> bool:
            return await sidecar.total("meshproxy_model_server_pages_total", 'result="ok"') > first

        async def is_known() -> bool:
            return f"meshproxy_hop_lag_seconds{{{LABEL}}}" in await sidecar.metrics()

        async with RestClient(sidecar.inbound, mesh.client) as rest, GrpcClient(sidecar.inbound, mesh.client) as grpc:
            assert (await rest.call("POST", PATH, {"instances": [1.0]})).status == "200"
            first = await sidecar.total("meshproxy_model_server_pages_total", 'result="ok"')
            await until(has_read)  # the interval begins
            for _ in range(CALLS):
                assert (await rest.call("POST", PATH, {"instances": [1.0]})).status == "200"
                assert (await grpc.call(PREDICT, REQUEST)).status == "OK"
            await until(is_known)
        page = await sidecar.metrics()
        whole = await sidecar.total("meshproxy_request_duration_seconds_sum", 'verb="predict"')
        shares = {part: page[f'meshproxy_call_time_ratio{{{LABEL},part="{part}"}}'] for part in PARTS}
        assert sum(shares.values()) == pytest.approx(1.0)
        assert all(shares[part] > 0 for part in PARTS[:3])
        mean = whole / (2 * CALLS + 1)
        assert shares["model"] * mean == pytest.approx(LATENCY, rel=0.5)
        assert page[f"meshproxy_hop_lag_alarm{{{LABEL}}}"] == 0
