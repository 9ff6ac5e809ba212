"""Traffic capture: a client and a model server that know of no mesh, the rules of `meshproxy capture` on both hosts,
and what is seen on the wire between them."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from meshproxy.devtools.load.generator import Driver
from meshproxy.devtools.load.grpc import GrpcConnection, call_blocks
from meshproxy.devtools.load.target import PREDICT
from meshproxy.devtools.local_mesh import local_mesh, server_of
from meshproxy.devtools.models import predict_request
from meshproxy.devtools.network_namespaces import run
from tests.drills.conftest import MODELS

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

MODELS_6, APPLICATION_6 = "fd77::2", "fd77::1"
CLIENT = 1000
"""The user of the application. All else here, the sidecars among it, is root's."""
GRPC_PORT, REST_PORT = 8500, 8501
CAPTURE = (sys.executable, "-m", "meshproxy.cli.capture", "apply", "--user", "0")
SECRET = 424242.5
"""A number that is a feature of a request: it must not be readable on the wire."""
CLEAR = (b"424242.5", b"half_plus_two", b"HTTP/1.1", b"PRI * HTTP/2.0", b"tensorflow.serving")
TLS_APPLICATION_DATA = b"\x17\x03\x03"


@contextmanager
def wiretap(interface: str) -> Iterator[list[bytes]]:
    """Every frame that an interface of this host sends or receives (packet(7))."""
    frames: list[bytes] = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sock:  # ETH_P_ALL
        sock.bind((interface, 0))
        sock.settimeout(0.05)
        done = threading.Event()

        def listen() -> None:
            while not done.is_set():
                try:
                    frames.append(sock.recv(1 << 16))
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield frames
        finally:
            done.set()
            thread.join()


async def dial(host: str, port: int, user: int) -> socket.socket:
    """A connection of a process of this user: rules look at who made the socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    os.seteuid(user)
    try:
        sock = socket.socket(family)
    finally:
        os.seteuid(0)
    sock.setblocking(False)
    try:
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, (host, port)), 60)
    except BaseException:
        sock.close()
        raise
    return sock


async def predict(host: str, user: int = CLIENT) -> bytes:
    """The whole answer to a REST call in plain text; empty if there is none."""
    reader, writer = await asyncio.open_connection(sock=await dial(host, REST_PORT, user))
    body = json.dumps({"instances": [SECRET]}).encode()
    writer.write(
        b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nhost: models\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@asynccontextmanager
async def captured(hosts: Any, tmp_path: Path) -> AsyncIterator[None]:
    """A replica and an application, both with a sidecar, and the rules on both hosts."""
    run("ip", "addr", "add", f"{APPLICATION_6}/64", "dev", "app", "nodad")
    run(*hosts.models, "ip", "addr", "add", f"{MODELS_6}/64", "dev", "models", "nodad")
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica = await mesh.replica("--host=127.0.0.1", listen="[::]:0", prefix=hosts.models)
        servers = []
        for name, address in (("four", MODELS), ("six", f"[{MODELS_6}]")):
            for protocol, port in (("grpc", GRPC_PORT), ("rest", REST_PORT)):
                server = server_of([replica], f"{name}-{protocol}")
                # As the application dials it: the rules on the other host lead to the sidecar there.
                server["spec"]["endpoints"][0]["sidecar"] = f"{address}:{port}"
                servers.append(server)
        application = await mesh.application(servers, outbound={"transparent": True})
        ports = f"{GRPC_PORT},{REST_PORT}"
        assert replica.sidecar is not None
        inbound = replica.sidecar.inbound.rpartition(":")[2]
        run(*hosts.models, *CAPTURE, "--inbound", ports, "--to-inbound", inbound)
        run(*CAPTURE, "--outbound", ports, "--to-outbound", application.outbound.rpartition(":")[2])
        yield


@pytest.mark.parametrize("host", [MODELS, MODELS_6], ids=["IPv4", "IPv6"])
async def test_nothing_is_in_clear_and_nobody_knows_of_the_mesh(hosts: Any, tmp_path: Path, host: str) -> None:
    async with captured(hosts, tmp_path):
        with wiretap("app") as frames:
            answer = await predict(host)
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"predictions": [SECRET / 2 + 3]}

            driver = Driver()
            message = predict_request("half_plus_two", [SECRET]).SerializeToString()
            blocks = call_blocks(PREDICT, b"models", (), is_tls=False)
            sock = await dial(host, GRPC_PORT, CLIENT)
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(
                lambda: GrpcConnection(blocks, message, 4, driver.finished), sock=sock
            )
            calls = await driver.run_closed(connection.slots, 60, at_most=100)
            connection.transport.abort()
            assert calls.done >= 100
            assert not calls.errors
        seen = b"".join(frames)
        print(
            f"{len(frames)} frames, {len(seen)} bytes, {seen.count(TLS_APPLICATION_DATA)} TLS records; in clear: none"
        )
        assert TLS_APPLICATION_DATA in seen
        assert [text for text in CLEAR if text in seen] == []


@pytest.mark.parametrize("host", [MODELS, MODELS_6], ids=["IPv4", "IPv6"])
async def test_who_comes_in_clear_past_the_mesh_is_not_served(hosts: Any, tmp_path: Path, host: str) -> None:
    """The model server listens on loopback here; its ports lead to the sidecar, which takes mTLS only."""
    async with captured(hosts, tmp_path):
        assert await predict(host, user=0) == b""
