"""Two sidecars that export spans, and how the spans of their calls are looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from meshproxy.devtools.child import free_port
from meshproxy.devtools.local_mesh import Document, LocalSidecar, local_mesh, server_of

PARENT = "00f067aa0ba902b7"
"""The caller's span."""


@asynccontextmanager
async def two_hops(tmp_path: Path, collector: str, *documents: Document, **keep: object) -> AsyncIterator[LocalSidecar]:
    """The sidecar of an application, and another before the model server. Both export. Of two endpoints that get calls
    in turn, one is nowhere."""
    telemetry: Document = {"telemetry": {"traces": {"endpoint": collector, "ratio": 0, "keep": keep}}}
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica = await mesh.replica(mesh=telemetry)
        server = server_of([replica], balancing={"policy": "round-robin"}, health={"enabled": False})
        server["spec"]["endpoints"].insert(0, {"sidecar": f"127.0.0.1:{free_port()}"})
        yield await mesh.application([server, *documents], mesh=telemetry, outbound={"server": "models"})


async def post(address: str, path: str, headers: dict[str, str]) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}{path}", json={"instances": [1.0]}, headers=headers) as response,
    ):
        await response.read()
        return response.status


def by_parent(spans: Iterable[Span], parent: str) -> list[Span]:
    return sorted(
        (span for span in spans if span.parent_span_id.hex() == parent), key=lambda span: span.start_time_unix_nano
    )


def attributes(span: Span) -> dict[str, object]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in span.attributes}
