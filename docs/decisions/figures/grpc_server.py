"""The figures of 0016: what a connection with an open stream costs a gRPC server, ours and grpcio's.

`python docs/decisions/figures/grpc_server.py` (needs the extra `dev`): 1,000 mTLS connections over loopback, each with
a client certificate and one stream that has received a message; memory (PSS) and CPU time of the server's process.
"""
# ruff: noqa: T201, ASYNC

from __future__ import annotations

import asyncio
import os
import resource
import ssl
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import uvloop

from meshproxy.codec.limits import Limits
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.caller import Workload
from meshproxy.identity.certificates import Credentials, server_context
from meshproxy.identity.peer import read_peer
from meshproxy.transport.connection import ConnectionContext, Times
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.grpc_server import GrpcServer, ServerCall
from meshproxy.transport.listener import Listener, Security
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper

CONNECTIONS = 1_000
MESSAGE = bytes(1_000)
PATH = "/figures.Service/Watch"


def used() -> tuple[int, float]:
    """Memory in KB (PSS) and CPU seconds of this process."""
    pss = next(line for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
    times = os.times()
    return int(pss.split()[1]), times.user + times.system


def peer(tls: ssl.SSLObject | None) -> Workload | None:
    leaf = tls.getpeercert(binary_form=True) if tls is not None else None
    return read_peer(leaf, "figures.example", time.time()) if leaf else None


class NoEvents:
    def handshake(self, result: str, reason: str) -> None: ...
    def connected(self, info: ConnectionInfo) -> None: ...
    def disconnected(self, info: ConnectionInfo) -> None: ...
    def limit(self, name: str) -> None: ...


async def ours(credentials: Credentials) -> str:
    async def watch(call: ServerCall) -> None:
        await call.only_message()
        await call.send(MESSAGE)
        await asyncio.Event().wait()

    loop = asyncio.get_running_loop()
    reaper = Reaper(loop)
    server = GrpcServer({PATH.encode(): watch})
    listener = Listener(
        direction="figures",
        shared=ConnectionContext(
            loop=loop, outbox=Outbox(loop), reaper=reaper, limits=Limits(), times=Times(), on_limit=print
        ),
        serve=server.serve,
        reject=server.reject,
        events=NoEvents(),
        security=Security.TLS,
        context=server_context(credentials),
        identify=peer,
        max_connections=2 * CONNECTIONS,
    )
    listener.listen("127.0.0.1", 0)
    reaper.start()
    kept.append((server, listener))
    return listener.address


async def grpcios(credentials: Credentials) -> str:
    async def watch(request: bytes, context: Any) -> None:
        await context.write(MESSAGE)
        await asyncio.Event().wait()

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return grpc.unary_stream_rpc_method_handler(watch)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    pair = (credentials.key_pem, credentials.certificate_pem)
    security = grpc.ssl_server_credentials([pair], credentials.bundle_pem, True)
    port = server.add_secure_port("127.0.0.1:0", security)
    await server.start()
    kept.append(server)
    return f"127.0.0.1:{port}"


kept: list[Any] = []
SERVERS = {"ours": ours, "grpcio": grpcios}


async def serve(name: str, folder: Path) -> None:
    """Print the address; then, for each line that comes, what is used."""
    pem = [(folder / file).read_bytes() for file in ("server.pem", "server-key.pem", "ca.pem")]
    print(await SERVERS[name](Credentials(*pem)), flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(*used(), flush=True)


async def connect(address: str, context: ssl.SSLContext, turn: asyncio.Semaphore) -> object:
    """A connection whose stream has received the message."""
    host, _, port = address.rpartition(":")
    async with turn:
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        codec = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        codec.initiate_connection()
        head = [(":method", "POST"), (":scheme", "https"), (":path", PATH), (":authority", "figures")]
        codec.send_headers(1, [*head, ("te", "trailers"), ("content-type", "application/grpc")])
        codec.send_data(1, bytes(5), end_stream=True)
        received = 0
        while received < len(MESSAGE):
            writer.write(codec.data_to_send())
            data = await reader.read(65_536)
            received += len(data)
            codec.receive_data(data)
        writer.write(codec.data_to_send())
    return writer


async def measure(name: str, folder: Path) -> None:
    server = await asyncio.create_subprocess_exec(
        sys.executable, __file__, name, str(folder), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdin is not None
    assert server.stdout is not None
    address = (await server.stdout.readline()).decode().strip()

    async def ask() -> tuple[float, float]:
        server.stdin.write(b"\n")  # type: ignore[union-attr]
        memory, cpu = (await server.stdout.readline()).split()  # type: ignore[union-attr]
        return float(memory), float(cpu)

    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.check_hostname = False
    context.load_cert_chain(folder / "client.pem", folder / "client-key.pem")
    context.set_alpn_protocols(["h2"])
    before = await ask()
    turn = asyncio.Semaphore(50)
    connections = await asyncio.gather(*(connect(address, context, turn) for _ in range(CONNECTIONS)))
    after = await ask()
    memory, cpu = (after[0] - before[0]) / len(connections), after[1] - before[1]
    print(f"{name}: {memory:.0f} KB a connection, {cpu:.2f} s of CPU for {len(connections)}")
    server.kill()
    await server.wait()


async def main() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (4 * CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with tempfile.TemporaryDirectory() as folder:
        authority = DevelopmentCA.create("figures.example")
        authority.write(Path(folder))
        for name in ("server", "client"):
            authority.issue(f"spiffe://figures.example/ns/figures/sa/{name}").write(Path(folder), name)
        for name in SERVERS:
            await measure(name, Path(folder))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        uvloop.run(serve(sys.argv[1], Path(sys.argv[2])))
    else:
        asyncio.run(main())
