"""The express lane over sockets: requests that differ ride, until a document closes the lane."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
import yaml

from meshproxy.devtools.local_mesh import (
    LocalSidecar,
    environment,
    local_mesh,
    local_sidecar,
    read_series,
    server_of,
)
from meshproxy.upstream.sidecar_pool import CALLS_PER_CONNECTION
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

CALLS = 20


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A model server that answers with the request id and the body that it got."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = re.findall(rb"content-length: (\d+)", head)
            (request_id,) = re.findall(rb"x-request-id: (\S+)", head)
            answer = request_id + b" " + await reader.readexactly(int(length))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))
    except asyncio.IncompleteReadError:
        writer.close()


async def call(address: str, calls: int = CALLS) -> None:
    """Calls of one connection, each with another id and another body, and each with its own answer."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for number in range(calls):
        body = b"x" * (1 + number)
        writer.write(
            b"POST /v1/models/m:predict HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\nx-request-id: id-%d\r\n\r\n%b"
            % (len(body), number, body)
        )
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        expected = b"id-%d %b" % (number, body)
        assert await reader.readexactly(len(expected)) == expected
    writer.close()


async def carried(running: LocalSidecar, direction: str = "inbound") -> float:
    series = await read_series(running.admin, "/metrics")
    return series[f'meshproxy_express_requests_total{{direction="{direction}",result="carried",reason=""}}']


async def test_requests_that_differ_ride_until_a_document_closes_the_lane(tmp_path: Path) -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    documents = environment(rest=f"{host}:{port}", mtls="disabled")
    async with server, local_sidecar(tmp_path, documents) as running:
        await call(running.inbound)
        rode = await carried(running)
        assert rode >= CALLS // 2
        documents[2]["spec"]["expressLane"] = False
        running.path.write_text(yaml.safe_dump_all(documents))

        async def is_closed() -> bool:
            before = await carried(running)
            await call(running.inbound)
            return await carried(running) == before

        await until(is_closed)


async def test_frequent_calls_between_two_sidecars_ride_on_both(tmp_path: Path) -> None:
    """The first ones go over HTTP/2 (`upstream.sidecar_pool`), then a connection of HTTP/1.1 is worth it."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, local_mesh(tmp_path / "mesh") as mesh:
        replica = await mesh.replica(server={"endpoints": [{"rest": f"{host}:{port}"}]})
        remote = replica.sidecar
        assert remote is not None
        application = await mesh.application([server_of([replica])], outbound={"server": "models"})

        async def rides() -> bool:
            await call(application.outbound, 4 * CALLS_PER_CONNECTION)
            return await carried(application, "outbound") > 0 < await carried(remote)

        await until(rides)
