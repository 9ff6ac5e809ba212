"""100,000 models, callers and paths that clients make up: series and memory of a sidecar stay bounded."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from meshproxy.devtools.child import Child
from meshproxy.devtools.clients import GrpcClient
from meshproxy.devtools.issuer import DevelopmentIssuer
from meshproxy.devtools.local_mesh import LocalSidecar, document, environment, local_sidecar
from meshproxy.devtools.models import predict_request
from meshproxy.telemetry.metrics import MAX_LINES
from meshproxy.telemetry.model_labels import MAX_SERVED_MODELS
from tests.processes.calls import PREDICT

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(1160)]

REQUESTS = 100_000
CONNECTIONS = 16
GRPC_CALLS = 2_000
GROWTH = 6 << 20
"""Bytes by which the second half of the requests may make the process larger."""
ISSUER = DevelopmentIssuer(algorithm="ES256")


class ModelServer(asyncio.Protocol):
    """Has every second model, whatever its name is."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._answers = 0

    def data_received(self, data: bytes) -> None:
        for _ in range(data.count(b"\r\n\r\n")):
            self._answers += 1
            status = b"200 OK" if self._answers % 2 else b"404 Not Found"
            self._transport.write(b"HTTP/1.1 %b\r\ncontent-length: 2\r\n\r\n{}" % status)


@asynccontextmanager
async def sidecar(folder: Path, grpc: str) -> AsyncIterator[LocalSidecar]:
    """One that permits everything to whoever has a token."""
    server = await asyncio.get_running_loop().create_server(ModelServer, "127.0.0.1", 0)
    rest = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    folder.mkdir()
    (folder / "jwks.json").write_text(json.dumps(ISSUER.jwks()))
    issuer = {"name": "corp", "issuer": ISSUER.issuer, "audiences": ["models"], "keys": {"file": "jwks.json"}}
    own = environment(rest, grpc, mtls="disabled", mesh={"issuers": [issuer]})
    role = document("ModelRole", {"rules": [{"models": ["*"], "verbs": ["predict", "metadata", "status"]}]}, "all")
    binding = document("ModelRoleBinding", {"role": "all", "subjects": [{"token": {"issuer": "corp"}}]}, "anybody")
    try:
        async with local_sidecar(folder, [*own, role, binding]) as running:
            yield running
    finally:
        server.close()


def made_up(draw: random.Random) -> bytes:
    """A request line: of a model with a version or without, or of nothing that there is."""
    model = f"m{draw.getrandbits(64):x}"
    paths = (
        f"POST /v1/models/{model}:predict",
        f"POST /v1/models/{model}/versions/{draw.getrandbits(40)}:predict",
        f"POST /v1/models/{model}/labels/l{draw.getrandbits(40):x}:predict",
        f"GET /v1/models/{model}/metadata",
        f"GET /v1/models/{model}",
        f"GET /{model}/{draw.getrandbits(64):x}?q={draw.getrandbits(64):x}",
    )
    return draw.choice(paths).encode()


async def call_rest(address: str, count: int, seed: int) -> None:
    """`count` requests on one connection, each with another model and another caller."""
    draw = random.Random(seed)
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with closing(writer):
        for number in range(count):
            token = ISSUER.token(f"caller-{seed}-{number}-{draw.getrandbits(64):x}").encode()
            line = made_up(draw)
            writer.write(
                line + b" HTTP/1.1\r\nhost: models\r\nauthorization: Bearer " + token + b"\r\n"
                b"content-length: %d\r\n\r\n"
                % (2 if line.startswith(b"POST") else 0)
                + (b"{}" if line.startswith(b"POST") else b"")
            )
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            assert head[9:12] in (b"200", b"404"), head


async def call_grpc(address: str, count: int) -> None:
    draw = random.Random(0)
    async with GrpcClient(address, None) as client:
        for number in range(count):
            model = f"g{draw.getrandbits(64):x}"
            token = ISSUER.token(f"caller-{number}")
            request = predict_request(model, [1.0]).SerializeToString()
            answer = await client.call(PREDICT, request, {"authorization": f"Bearer {token}"})
            assert answer.status == "NOT_FOUND"


async def test_series_and_memory_are_bounded(model_server: Child, tmp_path: Path) -> None:
    async with sidecar(tmp_path / "sidecar", str(model_server.listening["grpc"])) as running:
        seen = []
        for half in range(2):
            each = REQUESTS // 2 // CONNECTIONS
            calls = [call_rest(running.inbound, each, half * CONNECTIONS + number) for number in range(CONNECTIONS)]
            await asyncio.gather(call_grpc(running.inbound, GRPC_CALLS // 2), *calls)
            seen.append(await running.metrics())
    first, second = seen
    total = sum(value for series, value in second.items() if series.startswith("meshproxy_requests_total"))
    assert total == REQUESTS + GRPC_CALLS
    models = {series.partition('model="')[2].partition('"')[0] for series in second}
    assert len({model for model in models if model[:1] not in ("", "_")}) <= MAX_SERVED_MODELS
    # Half of the names are served: of those there were as many as may have a series long ago.
    assert len(second) - len(first) < 100
    assert second["meshproxy_metric_lines"] <= MAX_LINES
    grown = second["process_resident_memory_bytes"] - first["process_resident_memory_bytes"]
    print(
        f"\n{len(second):,} series after {REQUESTS:,} models, callers and paths; "
        f"{first['process_resident_memory_bytes'] / 1e6:.1f} MB after half of them, {grown / 1e6:+.1f} MB after all"
    )
    assert grown < GROWTH
