"""Rolling restarts of a sidecar while one client calls at a fixed rate: how many calls are lost.

    python -m tests.figures.rolling_restarts RATE SECONDS CHANNELS [COMMAND...]

Two sidecars take turns behind a balancer that does what a Kubernetes Service does: it sends new connections to the
other one a second after SIGTERM, and leaves those that exist alone. Without a command the client is grpcio. A command
gets the balancer's address, rate, seconds, channels and a file with the request as further arguments: `clients/` has
programs for grpc-go and Go's net/http, grpc-js and Java's HttpClient.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import grpc

from meshproxy.devtools.local_mesh import LocalMesh, LocalSidecar, environment, local_mesh
from meshproxy.devtools.models import predict_request
from tests.processes.balancer import Balancer

PREDICT = "/tensorflow.serving.PredictionService/Predict"
REQUEST = predict_request("half_plus_two", [1.0]).SerializeToString()
LAG = 1.0
"""Seconds until the balancer learns of a drain."""


async def restart_for_ever(
    mesh: LocalMesh, grpc_address: str, rest: str, balancer: Balancer, old: LocalSidecar
) -> None:
    """Replaces the sidecar again and again, once a client is there: an idle sidecar closes its port within `LAG`."""
    await balancer.connected.wait()
    while True:
        new = await start_sidecar(mesh, rest, grpc_address)
        old.child.signal(signal.SIGTERM)
        await asyncio.sleep(LAG)
        balancer.backends = [new.inbound]
        await old.child.wait()
        old = new


async def start_sidecar(mesh: LocalMesh, rest: str, grpc_address: str) -> LocalSidecar:
    return await mesh.sidecar("a sidecar", environment(rest, grpc_address, mtls="disabled"))


async def call_with_grpcio(address: str, rate: int, seconds: int, channels: int) -> Counter[str]:
    """What calls ended with: `OK`, or their error."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    opened = [grpc.aio.insecure_channel(address, options=options) for _ in range(channels)]
    methods: list[Any] = [channel.unary_unary(PREDICT) for channel in opened]
    ended: Counter[str] = Counter()

    async def call(number: int) -> None:
        try:
            await methods[number % channels](REQUEST, timeout=10)
            ended["OK"] += 1
        except grpc.aio.AioRpcError as error:
            ended[f"{error.code().name}: {error.details()}"] += 1

    now = asyncio.get_running_loop().time
    begun = now()
    async with asyncio.TaskGroup() as calls:
        for number in range(rate * seconds):
            await asyncio.sleep(begun + number / rate - now())
            calls.create_task(call(number))
    for channel in opened:
        await channel.close()
    return ended


async def roll(folder: Path, rate: int, seconds: int, channels: int, command: list[str]) -> str:
    """Measures, and returns what the client says."""
    async with local_mesh(folder) as mesh:
        server = await mesh.bare()
        sidecar = await start_sidecar(mesh, server.rest, server.grpc)
        balancer = Balancer(sidecar.inbound)
        async with await balancer.start():
            restarting = asyncio.ensure_future(restart_for_ever(mesh, server.grpc, server.rest, balancer, sidecar))
            try:
                if not command:
                    return repr(dict(await call_with_grpcio(balancer.address, rate, seconds, channels)))
                request = folder / "request"
                request.write_bytes(REQUEST)
                arguments = [*command, balancer.address, str(rate), str(seconds), str(channels), str(request)]
                client = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
                output, _ = await client.communicate()
                return output.decode()
            finally:
                restarting.cancel()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        numbers = [int(argument) for argument in sys.argv[1:4]]
        print(asyncio.run(roll(Path(name) / "mesh", numbers[0], numbers[1], numbers[2], sys.argv[4:])))
