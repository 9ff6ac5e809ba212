"""The control plane is killed in the middle of an issuance: it has the request, and the sidecar never gets the answer.

Between the two is a relay that lets nothing back once the request is on its way. Whatever becomes of the certificate
that nobody has, the next attempt gets another one.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from meshproxy.devtools.local_mesh import local_mesh
from tests.processes.calls import Load
from tests.processes.mesh import Mesh
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

LIFETIME = "45s"
"""A third of it is for the control plane to start again, which takes seconds on a busy machine."""
TRYING = "no certificate from the control plane; trying again"
REQUEST_TURN = 3
"""A client speaks its ClientHello, then the end of the handshake with its settings, and after those of the server the
request."""


class Relay:
    """Where sidecars connect. On connections that come while it holds, nothing comes back after the request.

    Attributes:
        connected: there is such a connection.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._holds = False
        self._writers: set[asyncio.StreamWriter] = set()
        self.connected = asyncio.Event()
        self.address = ""

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Relay]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = "{}:{}".format(*server.sockets[0].getsockname())
        try:
            yield self
        finally:
            server.close()
            self.cut()

    def hold(self) -> None:
        self._holds = True

    def cut(self) -> None:
        """Close every connection, and hold no further ones."""
        self._holds = False
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._target.rpartition(":")
        is_held = self._holds
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        self._writers |= {writer, far_writer}
        if is_held:
            self.connected.set()
        turns, is_there = 0, False

        async def there() -> None:
            nonlocal turns, is_there
            while data := await reader.read(65_536):
                turns += not is_there
                is_there = True
                far_writer.write(data)
            far_writer.close()

        async def back() -> None:
            nonlocal is_there
            while data := await far_reader.read(65_536):
                is_there = False
                if not is_held or turns < REQUEST_TURN:
                    writer.write(data)
            writer.close()

        with suppress(OSError):
            await asyncio.gather(there(), back())


@pytest.mark.parametrize("moment", ["before it answers the handshake", "after it has signed"])
async def test_killed_between_request_and_answer(tmp_path: Path, moment: str) -> None:
    async with local_mesh(tmp_path / "mesh") as local:
        it = await Mesh.start(local, LIFETIME)
        async with Relay(str(it.control.listening["control"])).listen() as relay:
            it.address = relay.address
            await it.start_sidecars()
            load = Load(it.application.outbound, None, rest=[True] * 2, grpc=[True] * 2)
            await until(lambda: it.rotations() >= 1)
            await load.more(20)

            def issued() -> int:
                return sum('"certificate issued"' in line for line in it.control.output)

            before = issued()
            relay.hold()
            if moment == "after it has signed":
                await until(lambda: issued() > before)
            else:
                it.control.signal(signal.SIGSTOP)
                await asyncio.wait_for(relay.connected.wait(), 60)
            await it.control.kill()
            relay.cut()
            sidecars = (it.replica, it.application)
            await until(lambda: any(each.said(TRYING) for each in sidecars))
            await load.more(50)
            await it.restart_control()
            rotations = it.rotations()
            await until(lambda: it.rotations() > rotations)
            await load.more(50)
            await load.stop()
            failed = 0.0
            for each in sidecars:
                failed += await each.total("meshproxy_identity_issuances_total", 'result="failed"')
            await until(lambda: sum(len(each.said(TRYING)) for each in sidecars) >= failed)  # its log comes by a pipe
            problems = [line["problem"] for each in sidecars for line in each.said(TRYING)]
            print(f"killed {moment}: {load.answered} calls, 0 failed; {failed:.0f} attempts failed: {problems[0]}")
            assert failed == len(problems) >= 1
