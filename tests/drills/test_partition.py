"""The link to a replica is cut for ten seconds, and nobody is told: packets are lost, connections stay open.

The application's calls are made by the load generator, since grpcio connects from threads of its own, which are
wherever this process was when they began.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meshproxy.devtools.load.generator import Slot
from meshproxy.devtools.load.grpc import GrpcConnection, call_blocks
from meshproxy.devtools.load.target import PREDICT
from meshproxy.devtools.local_mesh import LocalMesh, LocalSidecar, Replica, document, local_mesh, server_of
from meshproxy.devtools.models import predict_request
from meshproxy.upstream.sidecar_pool import CALLS_PER_CONNECTION
from tests.drills.conftest import MODELS
from tests.processes.waiting import PATIENCE, until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

REQUEST = predict_request("half_plus_two", [1.0]).SerializeToString()
CUT = 10.0
"""Seconds."""
DEADLINE = 1.0
"""Of a call, in seconds."""


@dataclass
class Call:
    """One call that is over: when it began and how long it took, in seconds, and what went wrong, if something did."""

    began: float
    seconds: float
    error: str | None


class Application:
    """Makes calls with a deadline over one connection, as many at a time as there are to make."""

    def __init__(self, deadline: float) -> None:
        self.over: list[Call] = []
        self._deadline = deadline
        self._free: list[Any] = []
        self._changed = asyncio.Event()
        self._streams = 0

    async def connect(self, sidecar: LocalSidecar, streams: int) -> GrpcConnection:
        timeout = b"%dm" % int(self._deadline * 1e3)
        blocks = call_blocks(PREDICT, b"models", ((b"grpc-timeout", timeout),), is_tls=False)
        host, _, port = sidecar.outbound.rpartition(":")
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: GrpcConnection(blocks, REQUEST, streams, self._finished), host, int(port)
        )
        await connection.has_settings
        self._free = list(connection.slots)
        self._streams = streams
        return connection

    def call(self) -> None:
        slot = self._free.pop()
        slot.begun = time.monotonic()
        slot.begin()

    def _finished(self, slot: Slot, error: str | None) -> None:
        self.over.append(Call(slot.begun, time.monotonic() - slot.begun, error))
        self._free.append(slot)
        self._changed.set()

    async def finish(self) -> None:
        """Waits until none is under way."""
        while len(self._free) < self._streams:
            self._changed.clear()
            await self._changed.wait()


async def test_calls_fail_fast_while_the_link_is_cut_and_go_well_soon_after(hosts: Any, tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica = await mesh.replica(listen=f"{MODELS}:0", prefix=hosts.models)
        sidecar = await mesh.application([server_of([replica], health={"check": "answer"}, connectTimeout="1s")])
        application = Application(DEADLINE)
        connection = await application.connect(sidecar, 100)

        async def call_until(moment: float) -> None:
            """Twenty calls a second, whatever becomes of them."""
            while time.monotonic() < moment:
                application.call()
                await asyncio.sleep(0.05)

        # The connections between the two sidecars are made, which a busy machine may take longer for than a call has.
        while not any(each.error is None for each in application.over):
            application.call()
            await application.finish()
        application.over.clear()
        await call_until(time.monotonic() + 0.5)
        await application.finish()
        assert {each.error for each in application.over} == {None}
        application.over.clear()

        cut = time.monotonic()
        hosts.cut()
        opened = asyncio.ensure_future(is_taken_out(sidecar))
        await call_until(cut + CUT)
        detected = await opened
        hosts.mend()
        mended = time.monotonic()
        async with asyncio.timeout(PATIENCE):
            while not any(each.began > mended and each.error is None for each in application.over):
                await call_until(time.monotonic() + 0.5)
        well = time.monotonic() + 2
        await call_until(well + 2)
        await application.finish()
        connection.transport.abort()

        during = [each for each in application.over if each.began < mended - DEADLINE]
        after = [each for each in application.over if each.began > mended]
        fast = [each for each in during if each.began > detected + 0.1]
        waited = [each for each in fast if "DEADLINE" in str(each.error)]
        longest = max(each.seconds for each in application.over)
        back = min(each.began for each in after if each.error is None) - mended
        print(
            f"{len(during)} calls while the link was cut, {len(fast)} of them after it was seen taken out, "
            f"{detected - cut:.2f} s after the cut, of which {len(waited)} waited for their deadline; the longest of "
            f"all {longest:.3f} s; the first good answer {back:.2f} s after the link was back"
        )
        print(Counter(str(each.error).partition(":")[0] for each in during))
        assert None not in {each.error for each in during}
        # Without a deadline they would wait for the link.
        assert longest < CUT / 2
        # A single one is let through every now and then, to see.
        assert len(waited) <= 0.1 * len(fast)
        # TCP alone would try again after as long as the cut lasted.
        assert back < CUT / 2
        assert {each.error for each in after if each.began > well} == {None}


async def is_taken_out(sidecar: LocalSidecar) -> float:
    """The moment at which the health check of an endpoint is seen to have failed."""
    while not await sidecar.total("meshproxy_endpoints", 'state="unhealthy"'):
        await asyncio.sleep(0.02)
    return time.monotonic()


async def test_a_half_open_connection_is_found_by_a_ping(hosts: Any, tmp_path: Path) -> None:
    """A model that thinks for a minute, and a caller who waits: nothing but a PING can tell that nobody is there."""
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica = await replica_seen_from_here(mesh, hosts, "--latency-ms=60000")
        route = document("ModelRoute", {"models": ["*"], "server": "models", "retries": {"attempts": 1}})
        sidecar = await mesh.application([server_of([replica]), route])
        application = Application(50.0)
        connection = await application.connect(sidecar, 1)
        application.call()
        await arrived(replica)
        cut = time.monotonic()
        hosts.cut()
        await application.finish()
        seconds = time.monotonic() - cut
        connection.transport.abort()
        (call,) = application.over
        print(f"found after {seconds:.2f} s: {call.error}")
        assert call.error == "UNAVAILABLE, refused by meshproxy: upstream-reset"
        assert seconds < 30  # of the 50 that the call has
        hosts.mend()
        await replica.kill()


async def replica_seen_from_here(mesh: LocalMesh, hosts: Any, *arguments: str) -> Replica:
    """A replica on the other host whose metrics this one can read."""
    admin = {"admin": {"listen": f"{MODELS}:0"}}
    return await mesh.replica(*arguments, listen=f"{MODELS}:0", prefix=hosts.models, sidecar=admin)


async def arrived(replica: Replica) -> None:
    """Returns when a call is at its sidecar, and the kernel has said so to that of the caller: whatever is on the way
    when the link is cut is found by TCP as well."""
    sidecar = replica.sidecar
    assert sidecar is not None

    async def is_there() -> bool:
        return await sidecar.total("meshproxy_requests_in_flight", 'direction="inbound"') == 1

    await until(is_there)
    await asyncio.sleep(0.5)  # twice as long as kernels wait with an acknowledgement, whatever else the machine does


PREDICT_REST = (
    b'POST /v1/models/half_plus_two:predict HTTP/1.1\r\nhost: models\r\ncontent-length: 20\r\n\r\n{"instances": [1.0]}'
)
DROP = """
table inet lost {
    chain in { type filter hook input priority 0; policy accept; iifname "app" drop; }
    chain out { type filter hook output priority 0; policy accept; oifname "app" drop; }
}
"""


@pytest.mark.parametrize("is_sent", [True, False], ids=["the request arrived", "the request is lost as well"])
async def test_a_rest_call_without_a_timeout_ends_soon_after_the_path(
    hosts: Any, tmp_path: Path, lane: bool, *, is_sent: bool
) -> None:
    """Between sidecars REST goes over HTTP/1.1, which has no PING: keepalive finds out in the one case, what the kernel
    knows of its acknowledgements in the other."""
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica = await replica_seen_from_here(mesh, hosts)
        route = document("ModelRoute", {"models": ["*"], "server": "models", "retries": {"attempts": 1}})
        sidecar = await mesh.application([server_of([replica]), route])
        host, _, port = sidecar.outbound.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))

        async def answer() -> bytes:
            writer.write(PREDICT_REST)
            head: bytes = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            return head + await reader.readexactly(length)

        # Only over HTTP/1.1 are REST calls on the express lane; without it, what is frequent goes there, too.
        calls, carried = 0, 0.0
        while calls < 4 * CALLS_PER_CONNECTION or (lane and not carried):
            assert (await answer()).startswith(b"HTTP/1.1 200 ")
            calls += 1
            carried = await sidecar.total(
                "meshproxy_express_requests_total", 'result="carried"', 'direction="outbound"'
            )
        replica.model_server.signal(signal.SIGSTOP)
        if is_sent:
            call = asyncio.ensure_future(answer())
            await arrived(replica)
        hosts.filter(DROP)
        cut = time.monotonic()
        if not is_sent:
            call = asyncio.ensure_future(answer())
        head = await asyncio.wait_for(call, PATIENCE)
        seconds = time.monotonic() - cut
        print(f"found after {seconds:.2f} s: {head.decode('ascii', 'replace').splitlines()[-1]}")
        assert head.startswith(b"HTTP/1.1 502 ")
        assert b"x-meshproxy-refusal: upstream-reset" in head
        assert seconds < 30  # what the kernel alone takes is minutes
        writer.close()
        hosts.filter("delete table inet lost")
        replica.model_server.signal(signal.SIGCONT)
        await replica.kill()
