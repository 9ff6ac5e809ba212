"""A mesh with everything that the boards show: two versions of a model, one of which is worse; failures and retries; a
queue; callers that are denied; a control plane. It is loaded until it is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from meshproxy.devtools.clients import GrpcClient, RestClient
from meshproxy.devtools.demo_mesh import TRUST_DOMAIN, all_started
from meshproxy.devtools.local_mesh import Document, LocalMesh, LocalSidecar, document, local_mesh, server_of
from meshproxy.devtools.managed_mesh import ManagedMesh
from meshproxy.devtools.models import predict_request

POD_MONITOR = Path(__file__).parents[2] / "deploy" / "prometheus" / "podmonitor.yaml"
MODEL = "fraud"
PATH = f"/v1/models/{MODEL}:predict"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
CONTENT = {"instances": [1.0, 2.0, 5.0]}
BREAKER = {"consecutiveFailures": 3, "openFor": "1s"}


@dataclass(frozen=True, slots=True)
class BoardMesh:
    """The running processes."""

    replicas: list[LocalSidecar]
    application: LocalSidecar
    managed: ManagedMesh

    @property
    def jobs(self) -> dict[str, dict[str, Any]]:
        """What Prometheus scrapes, as the Prometheus Operator would tell it of the PodMonitor: a target has the label
        `endpoint`, and then what the PodMonitor says of labels is done."""
        monitored, _ = yaml.safe_load_all(POD_MONITOR.read_text())
        endpoint, *_ = monitored["spec"]["podMetricsEndpoints"]
        sidecars = (*self.replicas, self.application, self.managed.replica, self.managed.application)
        targets = {"serving": [each.admin for each in sidecars], "meshproxy": [self.managed.web]}
        return {
            name: {
                "static_configs": [{"targets": found, "labels": {"namespace": name, "endpoint": endpoint["port"]}}],
                "relabel_configs": endpoint["relabelings"],
            }
            for name, found in targets.items()
        }

    async def shift(self, weight: int) -> None:
        """Give version 2 so many of a hundred calls."""
        documents = self.application.documents
        (route,) = [each for each in documents if each["kind"] == "ModelRoute"]
        stable, canary = route["spec"]["split"]
        stable["weight"], canary["weight"] = 100 - weight, weight
        await self.application.reload([each for each in documents if each["kind"] not in ("MeshConfig", "Sidecar")])


def _route() -> Document:
    return document(
        "ModelRoute",
        {
            "models": [MODEL],
            "directions": ["outbound"],
            "split": [
                {"weight": 95, "server": "stable", "version": 1},
                {"weight": 5, "server": "canary", "version": 2},
            ],
            "mirror": {"server": "stable", "percent": 20, "compare": {"relative": 0.001}},
            "fallback": "stable",
            "retries": {"attempts": 2, "budgetRatio": 0.1},
            "concurrency": {"limit": 4, "queue": 20},
        },
        MODEL,
    )


@asynccontextmanager
async def board_mesh(directory: Path) -> AsyncIterator[BoardMesh]:
    """Start everything, and load it. Raises ChildFailed."""
    async with local_mesh(directory, TRUST_DOMAIN) as mesh:
        own = {"trustDomain": TRUST_DOMAIN, "telemetry": {"modelServer": {"interval": "1s"}}}
        queue = {"models": [MODEL], "directions": ["inbound"], "concurrency": {"limit": 3, "queue": 50}}
        limited = document("ModelRoute", queue, "limited")
        served = f"--model={MODEL}=1,2"
        stable, canary, broken = replicas = await all_started(
            mesh.replica(served, "--latency-ms=15", "--failure-rate=0.01", mesh=own, documents=[limited]),
            mesh.replica(served, "--latency-ms=25", "--failure-rate=0.2", mesh=own, documents=[limited]),
            mesh.replica(served, "--failure-rate=1", mesh=own, documents=[limited]),
        )
        servers = [
            server_of([stable], "stable", breaker=BREAKER),
            server_of([canary, broken], "canary", breaker=BREAKER),
        ]
        application = await mesh.application([*servers, _route()], outbound={"server": "stable"}, mesh=own)
        plain = await mesh.model_server("--model=half_plus_two=1", "--latency-ms=5")
        listening = plain.listening
        managed = await ManagedMesh.start(mesh, str(listening["rest"]), str(listening["grpc"]), lifetime=3_600.0)
        await managed.in_sync()
        found = BoardMesh([each.sidecar for each in replicas if each.sidecar is not None], application, managed)
        loads = [asyncio.ensure_future(each) for each in _loads(mesh, found)]
        try:
            yield found
        finally:
            for load in loads:
                load.cancel()
            await asyncio.gather(*loads, return_exceptions=True)


def _loads(mesh: LocalMesh, found: BoardMesh) -> list[Awaitable[None]]:
    """Callers, each of which has one call at a time. What they are answered is told by the sidecars."""
    request = predict_request(MODEL, [1.0, 2.0, 5.0]).SerializeToString()
    managed = {"host": "models.example"}

    async def rest(
        address: str, certificate: Any, path: str, pause: float, headers: dict[str, str] | None = None
    ) -> None:
        async with RestClient(address, certificate) as client:
            await _again(lambda: client.call("POST", path, CONTENT, headers), pause)

    async def grpc(pause: float) -> None:
        async with GrpcClient(found.application.outbound, None) as client:
            await _again(lambda: client.call(PREDICT, request), pause)

    async def newcomer(pause: float) -> None:
        """A caller that connects for each call, and may not call; then one whom nobody knows."""
        while True:
            for certificate in (mesh.certificate("pricing", "quoter"), mesh.no_certificate()):
                async with RestClient(found.replicas[0].inbound, certificate) as client:
                    await client.call("POST", PATH, CONTENT)
                await asyncio.sleep(pause)

    outbound = found.application.outbound
    return [
        *(rest(outbound, None, PATH, 0.05) for _ in range(6)),
        *(grpc(0.05) for _ in range(4)),
        rest(found.managed.application.outbound, None, "/v1/models/half_plus_two:predict", 0.1, managed),
        newcomer(0.5),
    ]


async def _again(call: Callable[[], Awaitable[object]], pause: float) -> None:
    while True:
        await call()
        await asyncio.sleep(pause)
