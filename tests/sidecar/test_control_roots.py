"""The trust bundle from a control plane: the real one in this process, over mTLS on loopback."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meshproxy.control.app import ControlPlane as ControlProcess
from meshproxy.control.leaves import FolderLeaves
from meshproxy.control.rotator import Rotator
from meshproxy.control_api import ROOTS, Roots, roots_digest
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.sidecar import control_stream as module
from meshproxy.sidecar import reconnect
from meshproxy.sidecar.control_roots import ControlRoots
from meshproxy.transport.client import ClientError
from tests.background import running
from tests.processes.waiting import until
from tests.sidecar.test_enrollment import World, enrollment
from tests.sidecar.test_enrollment import world as world  # a fixture


@asynccontextmanager
async def followed(world: World) -> AsyncIterator[ControlRoots]:
    """A sidecar that has a certificate, and follows the bundle."""
    world.write_token()
    it = enrollment(world)
    await it.join()
    roots = ControlRoots("resnet-0", world.channels[-1])
    it.renewed = lambda issued, expires: roots.tell()
    async with running(roots.run()):
        yield roots


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "FIRST_RETRY", 0.01)


def bundle(world: World) -> bytes:
    return world.files().trust_bundle.read_bytes()


async def noted(process: ControlProcess) -> dict[str, str]:
    """Who has which bundle, as the control plane has written it."""
    await process._roll.flush()
    return {leaf.sidecar: leaf.roots for leaf in process._records._leaves.valid(0.0) if leaf.sidecar}


async def test_a_new_root_arrives_before_the_next_certificate(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with followed(world):
        first, serial = bundle(world), world.serial()

        async def says(content: bytes) -> bool:
            return await noted(world.process) == {"resnet-0": roots_digest(content)}

        await until(lambda: says(first))
        Rotator(world.process.store, FolderLeaves(world.process.store.folder)).forward()
        both = world.process.authority().bundle_pem
        await until(lambda: bundle(world) == both != first)
        await until(lambda: says(both))
        assert world.serial() == serial
        assert [record for record in caplog.records if record.message == "trust bundle received"]


async def test_it_says_when_another_certificate_is_in_use(world: World) -> None:
    async with followed(world) as roots:
        await until(lambda: noted(world.process))
        again = enrollment(world)
        again.renewed = lambda issued, expires: roots.tell()
        assert await again._attempt()

        async def first_is_replaced() -> bool:
            await world.process._roll.flush()
            return sorted(leaf.is_replaced for leaf in world.process._records._leaves.valid(0.0)) == [False, True]

        await until(first_is_replaced)


async def test_a_bundle_that_our_certificate_does_not_fit_to(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with followed(world) as roots:
        before = bundle(world)
        for content in (DevelopmentCA.create("m.example").bundle_pem, b"no certificate"):
            await roots._take(msgspec.json.encode(Roots(content.decode())))
        assert bundle(world) == before
        rejected = [record for record in caplog.records if "trust bundle rejected" in record.message]
        assert [record.__dict__["fields"]["reason"] for record in rejected] == ["untrusted", "unreadable"]


async def test_a_bundle_that_comes_while_a_certificate_is_written_is_written_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate came with the bundle of before: written last, it would stay until the stream ends."""
    async with followed(world) as roots:
        it, begun, release = enrollment(world), threading.Event(), threading.Event()
        it._channel.writing = roots._channel.writing
        store = it._store

        def slowly(credentials: Any) -> None:
            begun.set()
            assert release.wait(10.0)
            store(credentials)

        monkeypatch.setattr(it, "_store", slowly)
        renewing = asyncio.create_task(it._attempt())
        await asyncio.to_thread(begun.wait, 10.0)
        Rotator(world.process.store, FolderLeaves(world.process.store.folder)).forward()
        both = world.process.authority().bundle_pem
        taking = asyncio.create_task(roots._take(msgspec.json.encode(Roots(both.decode()))))
        assert (await asyncio.wait([taking], timeout=0.3))[0] == set()
        release.set()
        assert await renewing
        await taking
        assert bundle(world) == both


async def test_what_is_not_understood_ends_the_stream(world: World) -> None:
    roots = ControlRoots("resnet-0", enrollment(world)._channel)
    with pytest.raises(ClientError, match="the trust bundle is not understood"):
        await roots._take(b"{")
    # With a certificate that is not there, or has expired, it comes with the next one.
    await roots._take(msgspec.json.encode(Roots("x")))
    assert not world.files().trust_bundle.exists()


async def test_a_control_plane_of_the_version_before(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It has no such stream: bundles come with certificates, as they did. It is asked again later."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "OLDER_SECONDS", 0.05)
    methods: Any = world.process.server._methods
    method = methods.pop(ROOTS)
    async with followed(world):
        await until(lambda: [record for record in caplog.records if "it is older than we" in record.message])
        methods[ROOTS] = method
        await until(lambda: noted(world.process))


async def test_a_control_plane_that_is_away(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.process.listener.stop_accepting()
    roots = ControlRoots("resnet-0", enrollment(world)._channel)
    task = asyncio.create_task(roots.run())
    await until(lambda: caplog.records)
    await asyncio.sleep(0.1)
    task.cancel()
    assert [record.message for record in caplog.records].count(
        "no trust bundle from the control plane; trying again"
    ) == 1


async def test_all_streams_share_one_connection(world: World, tmp_path: Path) -> None:
    world.write_token()
    it = enrollment(world)
    await it.join()
    channel = world.channels[-1]
    async with channel.streams() as first:
        async with channel.streams() as second:
            assert second is first
        assert await it._attempt()
        async with channel.streams() as third:  # another certificate is shown by another connection
            assert third is not first
        async with channel.streams() as fourth:
            assert fourth is not third
            assert not first._is_closed
    assert first._is_closed
