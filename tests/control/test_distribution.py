"""Documents to sidecars, without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meshproxy.control.distribution import DocumentService
from meshproxy.control.documents import MeshDocuments
from meshproxy.control.status import SidecarEntry, SidecarState, moment
from meshproxy.control_api import WATCH, DocumentSet, SidecarReport
from meshproxy.identity.caller import Workload
from meshproxy.refusal import GrpcStatus
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.grpc_server import CallFailed
from tests.control.test_documents import MESH, SERVER

NOW = 1_000.0


def workload(not_after: float = NOW + 60.0) -> Workload:
    return Workload("spiffe://m.example/ns/a/sa/b", "m.example", "a", "b", not_after)


class FakeCall:
    """A stream of a sidecar: what it sends, and what it was sent."""

    def __init__(self, peer: Workload | None) -> None:
        self.info = ConnectionInfo(direction="control", protocol="HTTP/2", remote="10.0.0.1:1", local="", peer=peer)
        self.messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.has_ended = False
        self.sent: asyncio.Queue[DocumentSet] = asyncio.Queue()

    def __aiter__(self) -> FakeCall:
        return self

    async def __anext__(self) -> bytes:
        message = await self.messages.get()
        if message is None:
            raise StopAsyncIteration
        return message

    async def send(self, message: bytes) -> None:
        self.sent.put_nowait(msgspec.json.decode(message, type=DocumentSet))

    def say(self, **report: Any) -> None:
        self.messages.put_nowait(msgspec.json.encode(SidecarReport("resnet", **report)))

    def leave(self) -> None:
        self.has_ended = True
        self.messages.put_nowait(None)

    async def given(self) -> DocumentSet:
        async with asyncio.timeout(5):
            return await self.sent.get()


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "mesh.yaml").write_text(MESH)
        self.documents = MeshDocuments([str(folder)])
        self.service = DocumentService(self.documents, lambda: NOW)

    async def change(self) -> None:
        (self.folder / "models.yaml").write_text(SERVER)
        await self.documents.reload()

    def counts(self) -> dict[str, float]:
        return {labels[0]: value for labels, value in self.service.count()}

    @asynccontextmanager
    async def watching(self, call: Any) -> AsyncIterator[asyncio.Task[None]]:
        task: asyncio.Task[None] = asyncio.create_task(self.service.methods[WATCH](call))  # type: ignore[arg-type]
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_sidecar_is_given_what_it_does_not_have(world: World) -> None:
    call = FakeCall(workload())
    async with world.watching(call):
        call.say()
        first = await call.given()
        assert first == world.documents.current
        assert world.counts() == {"in-sync": 0, "behind": 1, "refused": 0, "gone": 0}
        call.say(version=first.version, software="0.1.0")
        await turns()
        assert world.counts() == {"in-sync": 1, "behind": 0, "refused": 0, "gone": 0}
        await world.change()
        second = await call.given()
        assert second.version != first.version
        (watcher,) = world.service.watchers.values()
        assert (watcher.version, watcher.sent) == (first.version, second.version)
        assert watcher.state(second.version) is SidecarState.BEHIND
        assert world.service.describe().version == second.version
        assert list(world.service.entries()) == [
            SidecarEntry(
                sidecar="resnet",
                spiffe_id="spiffe://m.example/ns/a/sa/b",
                state=SidecarState.BEHIND,
                since=moment(NOW),
                sent_at=moment(NOW),
                version=first.version,
                wanted=second.version,
                peer="10.0.0.1:1",
                software="0.1.0",
                certificate_expires=moment(NOW + 60.0),
            )
        ]
    assert world.service.watchers == {}


async def test_one_that_has_it_is_sent_nothing(world: World) -> None:
    call = FakeCall(workload())
    async with world.watching(call):
        call.say(version=world.documents.current.version)
        await turns()
        assert call.sent.empty()
        await world.change()
        assert await call.given() == world.documents.current


async def test_a_refusal_is_logged_and_counted_and_not_repeated(world: World, caplog: pytest.LogCaptureFixture) -> None:
    call = FakeCall(workload())
    async with world.watching(call):
        call.say(version="older")
        given = await call.given()
        call.say(version="older", refused=given.version, problems=("no such server",))
        await turns()
        assert world.counts() == {"in-sync": 0, "behind": 0, "refused": 1, "gone": 0}
        (record,) = caplog.records
        assert record.__dict__["fields"]["problems"] == ("no such server",)
        assert call.sent.empty()


async def test_who_is_not_served(world: World) -> None:
    for peer, message, status in (
        (None, b"", GrpcStatus.UNAUTHENTICATED),
        (workload(), None, GrpcStatus.INVALID_ARGUMENT),
        (workload(), b"[]", GrpcStatus.INVALID_ARGUMENT),
    ):
        call = FakeCall(peer)
        call.messages.put_nowait(message)
        async with world.watching(call) as task:
            with pytest.raises(CallFailed) as caught:
                await task
            assert caught.value.status is status
        assert world.service.watchers == {}


async def test_a_stream_ends_with_its_certificate(world: World) -> None:
    call = FakeCall(workload(not_after=NOW + 0.05))
    async with world.watching(call) as task:
        call.say()
        with pytest.raises(CallFailed, match="has expired") as caught:
            async with asyncio.timeout(5):
                await task
    assert caught.value.status is GrpcStatus.UNAVAILABLE
    assert world.service.watchers == {}


async def test_a_sidecar_that_leaves(world: World) -> None:
    call = FakeCall(workload())
    async with world.watching(call) as task:
        call.say()
        await call.given()
        call.leave()
        async with asyncio.timeout(5):
            await task
    assert world.service.watchers == {}
    assert world.counts()["gone"] == 0


async def test_a_sidecar_that_is_lost_is_shown_until_it_is_back(world: World) -> None:
    async with world.watching(FakeCall(workload())) as task:
        first = world.service.watchers
        await turns()
        assert first == {}  # it has said nothing yet
        task.cancel()
    call = FakeCall(workload())
    async with world.watching(call):
        call.say(version=world.documents.current.version, host="pod-1", certificate_issued=900.0)
        call.say(refused="x", problems=("no", "no"), host="pod-1", certificate_expires=9_000.0)
        await turns()
    (entry,) = world.service.entries()
    assert (entry.state, entry.host, entry.since, entry.problems) == (SidecarState.GONE, "pod-1", moment(NOW), ())
    assert entry.certificate_expires == moment(9_000.0)
    assert world.counts() == {"in-sync": 0, "behind": 0, "refused": 0, "gone": 1}
    other, again = FakeCall(workload()), FakeCall(workload())
    async with world.watching(other), world.watching(again):
        other.say(host="pod-2")
        await turns()
        assert world.counts()["gone"] == 1
        again.say(host="pod-1")
        await turns()
        assert world.counts()["gone"] == 0
        assert len(list(world.service.entries())) == 2


async def test_names_are_cut(world: World) -> None:
    call = FakeCall(workload())
    async with world.watching(call):
        call.say(host="h" * 1_000, software="s" * 1_000)
        await turns()
        (entry,) = world.service.entries()
        assert (len(entry.host), len(entry.software)) == (256, 256)
