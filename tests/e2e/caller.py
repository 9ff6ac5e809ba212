"""The application of the story, in a container of its own: it calls the model by its sidecar's port for applications.

python -m tests.e2e.caller        until SIGTERM; every tenth of a second a line says how it goes
python -m tests.e2e.caller once   one call by REST and one by gRPC; a line says how they went
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from meshproxy.devtools.clients import Answer, GrpcClient, RestClient
from tests.processes.calls import KEPT, PATH, PREDICT, REQUEST, Load
from tests.processes.waiting import until

PAUSE = 0.012
"""Seconds between the calls of each connection: the nodes share this machine, and a story of 10,000 calls is enough."""
OUTBOUND, ADMIN = "127.0.0.1:18501", "127.0.0.1:18502"


async def wait_for_sidecar() -> None:
    """It is ready: it has an identity, and knows its documents and the endpoints in them."""
    async with RestClient(ADMIN, None) as admin:

        async def is_ready() -> bool:
            return (await admin.call("GET", "/readyz")).status == "200"

        await until(is_ready)


async def call_until_stopped() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    load = Load(OUTBOUND, None, rest=[True, False], grpc=[True, False], pause=PAUSE)
    while not stop.is_set():
        said = {"answered": load.answered, "failed": len(load.failures), "failures": load.failures[:KEPT]}
        print(json.dumps(said), flush=True)
        try:
            await asyncio.wait_for(stop.wait(), 0.1)
        except TimeoutError:
            pass
    await load.stop()


async def call_once() -> None:
    async with RestClient(OUTBOUND, None) as rest, GrpcClient(OUTBOUND, None) as grpc:
        answers: list[Answer] = [await rest.call("POST", PATH, {"instances": [2.0]}), await grpc.call(PREDICT, REQUEST)]
    print(json.dumps([[each.status, each.refusal] for each in answers]))


async def main() -> None:
    await wait_for_sidecar()
    await (call_once() if sys.argv[1:] == ["once"] else call_until_stopped())


asyncio.run(main())
