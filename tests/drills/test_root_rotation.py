"""The root of a mesh is replaced under load, with certificates that live for 30 s: nobody notices.

`MESHPROXY_DRILL_SECONDS=300` makes it longer; the rotation takes place in the middle.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from meshproxy.control.authority import private_pem
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.local_mesh import SERVER, TRUST_DOMAIN, local_mesh
from meshproxy.devtools.model_server import Grpc, parse_models
from meshproxy.devtools.model_service import Service
from meshproxy.devtools.models import Catalogue
from tests.processes.calls import Load
from tests.processes.mesh import Mesh, control_command, mesh
from tests.processes.waiting import until

SECONDS = float(os.environ.get("MESHPROXY_DRILL_SECONDS", "90"))
LIFETIME = "30s"
STREAM_SECONDS = 50.0
"""Of one stream: the certificates with which it began expire meanwhile."""
PAUSE = 0.1
"""Seconds between two messages of a stream."""
ECHO = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
"""A method that streams both ways and that sidecars let through; what it is called with does not matter to them."""
FOLDERS = ("replica", "application")
"""Where the sidecars keep what they are given, beside the control plane's."""

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(SECONDS + 600)]


class Echo(grpc.GenericRpcHandler):
    """Answers each message with the same."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return grpc.stream_stream_rpc_method_handler(self._echo) if handler_call_details.method == ECHO else None

    async def _echo(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message


@asynccontextmanager
async def grpc_server() -> AsyncIterator[str]:
    """A model server that has streams, in this process. Its address."""
    server = grpc.aio.server(handlers=[Grpc(Service(Catalogue(parse_models(["half_plus_two"])))), Echo()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class Streams:
    """Long streams, one after the other on each of several connections, until they are stopped."""

    def __init__(self, address: str, count: int) -> None:
        self.messages = 0
        self.ended = 0
        """Streams that ended as they should."""
        self.broken: list[str] = []
        self._address = address
        self._begun = time.monotonic()
        self._stopping = asyncio.Event()
        self._tasks = [asyncio.ensure_future(self._run()) for _ in range(count)]

    async def _run(self) -> None:
        async with grpc.aio.insecure_channel(self._address) as channel:
            while not self._stopping.is_set():
                try:
                    await self._stream(channel)
                except grpc.aio.AioRpcError as error:
                    self._break(f"{error.code().name}: {error.details()}")

    async def _stream(self, channel: grpc.aio.Channel) -> None:
        call: Any = channel.stream_stream(ECHO)()
        end = time.monotonic() + STREAM_SECONDS
        number = 0
        while time.monotonic() < end and not self._stopping.is_set():
            number += 1
            try:
                await call.write(b"%d" % number)
            except asyncio.InvalidStateError:  # grpcio, of a call that has ended
                self._break(f"before message {number}: {await call.code()}, {await call.details()}")
                return
            if (answer := await call.read()) != b"%d" % number:
                self._break(f"{answer!r} instead of message {number}: {await call.code()}, {await call.details()}")
                return
            self.messages += 1
            await asyncio.sleep(PAUSE)
        await call.done_writing()
        if await call.read() is not grpc.aio.EOF or await call.code() is not grpc.StatusCode.OK:
            self._break(f"it ended with {await call.code()}, {await call.details()}")
            return
        self.ended += 1

    def _break(self, why: str) -> None:
        self.broken.append(f"after {time.monotonic() - self._begun:.1f} s: {why}")
        self._stopping.set()

    async def stop(self) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)


async def ca(it: Mesh, *arguments: str) -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "meshproxy.cli.ca", *arguments, "--folder", str(it.local.directory / "control"))
    return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)


async def rotate(it: Mesh) -> str:
    """The whole rotation: interrupted once, and taken up again. Returns what it said."""
    first = await ca(it, "rotate", "--wait")
    assert first.stdout is not None
    async for line in first.stdout:
        if b"step 2" in line:
            first.send_signal(signal.SIGKILL)
            break
    await first.wait()
    again = await ca(it, "rotate", "--wait")
    said, _ = await again.communicate()
    assert again.returncode == 0
    return said.decode()


async def test_the_root_is_replaced_under_load(tmp_path: Path) -> None:
    async with grpc_server() as address, mesh(tmp_path, LIFETIME, grpc=address) as it:
        roots = it.local.directory / "control/authority.pem"
        before = roots.read_bytes()
        # Another control plane over the same folder, for whoever comes from now on.
        command = control_command(it.local, "127.0.0.1:0", "127.0.0.1:0", LIFETIME)
        await it.local.start("the other control plane", *command)
        load = Load(it.application.outbound, None, rest=[True, True, False], grpc=[True, True, False])
        streams = Streams(it.application.outbound, 4)
        begun = time.monotonic()
        await asyncio.sleep(max(5.0, (SECONDS - 60.0) / 2))
        said = await rotate(it)
        took = time.monotonic() - begun
        await asyncio.sleep(max(1.0, SECONDS - took))
        await streams.stop()
        sidecars = (it.replica, it.application)
        errors = [line for sidecar in sidecars for line in sidecar.child.output if '"severity_text": "ERROR"' in line]
        assert load.failures == [], errors
        await load.stop()
        assert streams.broken == []
        assert streams.ended >= 4
        assert streams.messages > 100

        assert "no rotation is under way" in said
        assert roots.read_bytes() != before
        # The old root is out of the bundle before the sidecars hear that it is.
        kept = [it.local.directory / folder / "roots.pem" for folder in FOLDERS]
        await until(lambda: {each.read_bytes() for each in kept} == {roots.read_bytes()})
        for sidecar in sidecars:
            page = await sidecar.metrics()
            assert page["meshproxy_identity_in_sync"] == 1
            assert page["meshproxy_identity_cert_expiration_timestamp_seconds"] > time.time()
            assert sidecar.said("certificate rejected; keeping the previous one") == []
        print(
            f"{time.monotonic() - begun:.0f} s, certificates of {LIFETIME}: {load.answered} calls, 0 failed; "
            f"{streams.ended} streams with {streams.messages} messages, 0 broken; at least {it.rotations()} rotations "
            f"in each sidecar"
        )


async def test_who_slept_through_it_comes_back_without_a_restart(tmp_path: Path) -> None:
    """Its certificate has expired, and all that it trusts is gone: it gets the new bundle, then a new join token."""
    async with local_mesh(tmp_path / "mesh") as local:
        it = await Mesh.start(local, "15s")
        known = local.directory / "known.pem"
        shutil.copy(local.directory / "control/authority.pem", known)
        await it.start_sidecars(controlPlane=it.settings("replica", SERVER, trustBundle=known.name))
        sleeper = it.replica

        def has_heard(problem: str) -> bool:
            return any(
                problem in line["problem"]
                for line in sleeper.said("no certificate from the control plane; trying again")
            )

        sleeper.child.signal(signal.SIGSTOP)
        await rotate(it)
        sleeper.child.signal(signal.SIGCONT)
        await until(lambda: has_heard("is not issued by a trusted authority"))
        bundle = await ca(it, "bundle")
        known.write_bytes((await bundle.communicate())[0])
        await until(lambda: has_heard("the join token is not known, or was used before"))
        before = len(sleeper.said("certificate rotated"))
        it.settings("replica", SERVER)
        await until(lambda: len(sleeper.said("certificate rotated")) > before)
        page = await sleeper.metrics()
        assert page["meshproxy_identity_cert_expiration_timestamp_seconds"] > time.time()
        load = Load(it.application.outbound, None, rest=[True], grpc=[True])
        await load.more(20)
        await load.stop()
        assert load.failures == []


def signs(it: Mesh, authority: DevelopmentCA) -> bool:
    """Whether both sidecars show certificates of it."""
    for folder, sidecar in zip(FOLDERS, (it.replica, it.application), strict=True):
        issued = (it.local.directory / folder / "identity.pem").read_bytes()
        shown = sidecar.said("certificate rotated")
        serial = x509.load_pem_x509_certificate(issued).serial_number
        if authority.bundle_pem not in issued or not shown or int(shown[-1]["serial"], 16) != serial:
            return False
    return True


async def test_an_authority_of_ones_own_is_replaced_by_hand(tmp_path: Path) -> None:
    """An intermediate by another one of the same root, then both by those of another root, as docs/root-rotation.md
    says; each file is written by itself, and another one later."""
    async with local_mesh(tmp_path / "mesh") as local:
        folder = local.directory / "control"
        folder.mkdir(mode=0o700)
        root, next_root = (DevelopmentCA.create(TRUST_DOMAIN) for _ in range(2))

        def trust(*roots: DevelopmentCA) -> bytes:
            bundle = b"".join(each.bundle_pem for each in roots)
            (folder / "roots.pem").write_bytes(b"# ours\n" + bundle)
            return bundle

        def put(authority: DevelopmentCA) -> None:
            (folder / "authority.pem").write_bytes(authority.bundle_pem)
            (folder / "authority-key.pem").write_bytes(private_pem(authority._key))
            (folder / "authority-key.pem").chmod(0o600)

        def trusted() -> set[bytes]:
            return {(local.directory / each / "roots.pem").read_bytes() for each in FOLDERS}

        trust(root)
        put(root.intermediate())
        it = await Mesh.start(local, "15s")
        await it.start_sidecars()
        load = Load(it.application.outbound, None, rest=[True, False], grpc=[True, False])
        second, third = root.intermediate(), next_root.intermediate()
        put(second)
        await until(lambda: signs(it, second))
        both = trust(root, next_root)
        await until(lambda: trusted() == {both})
        put(third)
        await until(lambda: signs(it, third))
        last = trust(next_root)
        await until(lambda: trusted() == {last})
        await load.more(100)
        await load.stop()
        assert load.failures == []
        for sidecar in (it.replica, it.application):
            assert sidecar.said("certificate rejected; keeping the previous one") == []
            assert sidecar.said("trust bundle rejected; keeping the previous one") == []
        print(f"{load.answered} calls, 0 failed, while an authority was replaced by hand twice")
