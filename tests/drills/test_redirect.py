"""Connections that the kernel redirects to the outbound port: who dials a replica need not know of any sidecar."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from meshproxy.devtools.load.generator import Driver
from meshproxy.devtools.load.grpc import GrpcConnection, call_blocks
from meshproxy.devtools.load.target import PREDICT
from meshproxy.devtools.local_mesh import local_mesh, server_of
from meshproxy.devtools.models import predict_request
from tests.drills.conftest import MODELS

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

SO_MARK = 36
"""socket(7); Python has no name for it before 3.13."""
MARK = 7
"""What tells connections of the application from those of its sidecar, which must not come back to it. In a pod that is
the user who runs them."""


async def dial(address: str) -> socket.socket:
    """A connection of the application."""
    host, _, port = address.rpartition(":")
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, SO_MARK, MARK)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    return sock


async def test_who_dials_a_replica_lands_in_the_outbound_port(hosts: Any, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with local_mesh(tmp_path / "mesh") as mesh:
        first, second = await asyncio.gather(
            *(mesh.replica(f"--host={MODELS}", listen=f"{MODELS}:0", prefix=hosts.models) for _ in range(2))
        )
        servers = [server_of([first], "first"), server_of([second], "second")]
        application = await mesh.application(servers, outbound={"transparent": True})
        port = application.outbound.rpartition(":")[2]
        rule = f"ip daddr {MODELS} tcp dport 1-65535 meta mark {MARK} redirect to :{port}"
        hosts.filter(f"table ip drill {{\nchain output {{\ntype nat hook output priority -100\n{rule}\n}}\n}}")

        # Plain HTTP/1.1 to a port that takes nothing but mTLS, and no name of ours anywhere.
        body = json.dumps({"instances": [1.0]}).encode()
        for replica, calls in ((first, 1), (second, 2)):
            for _ in range(calls):
                reader, writer = await asyncio.open_connection(sock=await dial(str(replica.endpoint["sidecar"])))
                writer.write(
                    b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nhost: elsewhere\r\nconnection: close\r\n"
                    b"content-length: %d\r\n\r\n%b" % (len(body), body)
                )
                answer = await reader.read()
                assert answer.startswith(b"HTTP/1.1 200 "), answer
                writer.close()
        assert [await first.request_count(), await second.request_count()] == [1, 2]

        # gRPC over the same.
        driver = Driver()
        blocks = call_blocks(PREDICT, b"elsewhere", (), is_tls=False)
        message = predict_request("half_plus_two", [1.0]).SerializeToString()
        sock = await dial(str(second.endpoint["sidecar"]))
        _, connection = await loop.create_connection(
            lambda: GrpcConnection(blocks, message, 4, driver.finished), sock=sock
        )
        run = await driver.run_closed(connection.slots, 60, at_most=100)
        connection.transport.abort()
        print(f"{run.done} gRPC calls answered, {dict(run.errors)}")
        assert run.done >= 100
        assert not run.errors
        assert [await first.request_count(), await second.request_count()] == [1, 2 + run.done]

        # An address that nobody has written down belongs to no server.
        reader, writer = await asyncio.open_connection(sock=await dial(f"{MODELS}:1"))
        writer.write(b"GET /v1/models/half_plus_two HTTP/1.1\r\nhost: elsewhere\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        print(head)
        assert head.startswith(b"HTTP/1.1 404 ")
        assert b"x-meshproxy-refusal: no-route" in head
        writer.close()
