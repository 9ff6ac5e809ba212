"""Replicas that are looked up by name: the answer changes under load, and no call is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from meshproxy.devtools.load.generator import Run
from meshproxy.devtools.load.predict import predict_over_grpc, predict_over_rest
from meshproxy.devtools.local_mesh import Replica, document, local_mesh
from tests.processes.calls import REQUEST

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]


class NameServer(asyncio.DatagramProtocol):
    """Knows the addresses of one name, good for no time at all."""

    def __init__(self) -> None:
        self.addresses = ["127.0.0.1"]
        self.asked = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        answer = dns.message.make_response(query)
        if question.rdtype == dns.rdatatype.A:
            answer.answer.append(dns.rrset.from_text(question.name, 0, "IN", "A", *self.addresses))
            self.asked.set()
        self.transport.sendto(answer.to_wire(), addr)

    async def move(self, *addresses: str) -> None:
        """Says something else from now on; returns when it has been asked."""
        self.addresses = list(addresses)
        self.asked.clear()
        await self.asked.wait()


@asynccontextmanager
async def name_server() -> AsyncIterator[tuple[str, NameServer]]:
    """A name server on this machine, and its address."""
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        NameServer, local_addr=("127.0.0.1", 0)
    )
    try:
        yield "127.0.0.1:{}".format(transport.get_extra_info("sockname")[1]), protocol
    finally:
        transport.close()


async def test_a_name_that_moves_loses_no_call(tmp_path: Path) -> None:
    async with name_server() as (address, names), local_mesh(tmp_path / "mesh") as mesh:
        first = await mesh.bare()
        ports = {
            surface: int(str(first.model_server.listening[surface]).rpartition(":")[2]) for surface in ("rest", "grpc")
        }
        # The same ports at another address of this machine.
        second = await mesh.bare("--host=127.0.0.2", f"--rest-port={ports['rest']}", f"--port={ports['grpc']}")
        dns_spec = {"name": "models.test", **ports, "nameServer": address, "minRefresh": "200ms", "maxRefresh": "200ms"}
        application = await mesh.application([document("ModelServer", {"dns": dns_spec}, "models")])
        heard = []
        is_over = asyncio.Event()

        async def has_calls(replica: Replica) -> None:
            """It is called, and will be until it has had some more."""
            goal = await replica.request_count() + 100
            async with asyncio.timeout(60):
                while await replica.request_count() < goal:
                    await asyncio.sleep(0.02)

        async def move() -> None:
            for addresses, change, replica in (
                (["127.0.0.1", "127.0.0.2"], "added", first),
                (["127.0.0.2"], "removed", second),
            ):
                await has_calls(replica)
                heard.append([await first.request_count(), await second.request_count()])
                await names.move(*addresses)
                async with asyncio.timeout(60):
                    while not await application.total("meshproxy_endpoint_changes_total", f'change="{change}"'):
                        await asyncio.sleep(0.02)
            await has_calls(second)  # those that were in flight are over
            heard.append([await first.request_count(), await second.request_count()])
            # Whoever is gone for the name server may go in earnest.
            await first.model_server.stop()
            await has_calls(second)
            is_over.set()

        async def call(over: Callable[..., Awaitable[Run]], *more: bytes) -> int:
            """Until the name has moved; how many calls were answered, which is all."""
            answered = 0
            while not is_over.is_set():
                run = await over(application.outbound, 200, 0.5, *more)
                assert (run.done, dict(run.errors), run.unanswered) == (100, {}, 0)
                answered += run.done
            return answered

        rest, grpc, _ = await asyncio.gather(call(predict_over_rest), call(predict_over_grpc, REQUEST), move())
        print(f"{rest} and {grpc} answered; calls of the two before and after each move of the name: {heard}")
        assert heard[0][1] == 0 < heard[1][1]
        assert await second.request_count() == rest + grpc - heard[2][0]
        assert await application.total("meshproxy_endpoint_changes_total", 'change="added"') == 1
        assert await application.total("meshproxy_endpoint_changes_total", 'change="removed"') == 1
