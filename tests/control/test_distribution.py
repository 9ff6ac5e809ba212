"""Documents to sidecars, without sockets."""

from __future__ import annotations

import asyncio
import sys
import tracemalloc
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from meshproxy.control import distribution as module
from meshproxy.control.distribution import DocumentService, Group
from meshproxy.control.documents import MeshDocuments
from meshproxy.control.status import SidecarEntry, SidecarState, moment
from meshproxy.control_api import WATCH, DocumentSet, Scope, SidecarReport
from meshproxy.identity.caller import Workload
from meshproxy.refusal import GrpcStatus
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.grpc_server import CallFailed
from tests.control import test_documents
from tests.control.test_documents import MESH, ROUTE, Texts

NOW = 1_000.0
INBOUND, OUTBOUND = Scope("s"), Scope(outbound=True)
SERVER = test_documents.SERVER.replace("spec: {", "spec: {workload: {namespace: a, serviceAccount: b}, ")
OTHER = SERVER.replace("name: s", "name: other")


def workload(not_after: float = NOW + 60.0, name: str = "b") -> Workload:
    return Workload(f"spiffe://m.example/ns/a/sa/{name}", "m.example", "a", name, not_after)


class FakeCall:
    """A stream of a sidecar (`ServerCall`): what it sends, and what it was sent."""

    def __init__(self, peer: Workload | None, address: str = "10.0.0.1:1") -> None:
        self.info = ConnectionInfo(direction="control", protocol="HTTP/2", remote=address, local="", peer=peer)
        self.messages: deque[bytes] = deque()
        self.failure: CallFailed | None = None
        self.has_ended = False
        self.is_drained = True
        self.reads = True
        """It takes what it is sent."""
        self.sent: asyncio.Queue[DocumentSet] = asyncio.Queue()
        self._woken = asyncio.Event()

    def __aiter__(self) -> FakeCall:
        return self

    async def __anext__(self) -> bytes:
        while (message := self.take()) is None:
            if self.has_ended:
                raise StopAsyncIteration
            await self.wait()
        return message

    def take(self) -> bytes | None:
        if not self.messages and self.failure is not None:
            raise self.failure
        return self.messages.popleft() if self.messages else None

    def fail(self, status: GrpcStatus, message: str) -> None:
        self.failure = CallFailed(status, message)
        self.wake()

    async def wait(self) -> None:
        self._woken.clear()
        await self._woken.wait()

    def wake(self) -> None:
        self._woken.set()

    def post(self, framed: bytes) -> None:
        assert self.is_drained
        self.sent.put_nowait(msgspec.json.decode(framed[5:], type=DocumentSet))
        self.is_drained = self.reads

    def drained(self) -> None:
        self.is_drained = self.reads = True
        self.wake()

    def say(self, scope: Scope | None = INBOUND, **report: Any) -> None:
        self.send(msgspec.json.encode(SidecarReport("resnet", scope=scope, **report)))

    def send(self, message: bytes) -> None:
        self.messages.append(message)
        self.wake()

    def leave(self) -> None:
        self.has_ended = True
        self.wake()

    async def given(self) -> DocumentSet:
        async with asyncio.timeout(60):
            return await self.sent.get()


class World:
    def __init__(self) -> None:
        self.texts = Texts(mesh=MESH, models=SERVER)
        self.documents = MeshDocuments(self.texts)
        self.now = NOW
        self.service = DocumentService(self.documents, lambda: self.now)

    async def change(self, text: str, name: str = "models") -> None:
        self.texts.write(name, text)
        await self.documents.reload()
        await turns()

    def counts(self) -> dict[str, float]:
        return {labels[0]: value for labels, value in self.service.count()}

    @asynccontextmanager
    async def watching(self, call: Any) -> AsyncIterator[asyncio.Task[None]]:
        task: asyncio.Task[None] = asyncio.create_task(self.service.methods[WATCH](call))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def keys(received: DocumentSet) -> list[str]:
    found = [msgspec.json.decode(each.document) for each in received.documents]
    return sorted(f"{each['kind']}/{each['metadata']['name']}" for each in found)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def world() -> World:
    world = World()
    await world.documents.first()
    return world


async def test_what_an_identity_may_not_have_is_refused(world: World) -> None:
    """Whole: without the roles it asks for, everybody could call it."""
    stranger = Workload("spiffe://m.example/ns/shop/sa/x", "m.example", "shop", "x", NOW + 60.0)
    for scope in (INBOUND, None):
        call = FakeCall(stranger)
        async with world.watching(call) as task:
            call.say(scope)
            with pytest.raises(CallFailed, match="no ModelServer names it") as refused:
                await asyncio.wait_for(task, 60)
        assert refused.value.status is GrpcStatus.PERMISSION_DENIED
        assert call.sent.empty()
    assert (world.service.refused, world.service.watchers) == (2, {})
    assert {(each.reason, each.spiffe_id) for each in world.service.refusals} == {("scope", stranger.spiffe_id)}
    call = FakeCall(stranger)
    async with world.watching(call):
        call.say(OUTBOUND)
        assert "MeshConfig/m" in keys(await call.given())


async def test_what_it_may_not_have_any_more_is_not_sent(world: World) -> None:
    call = FakeCall(workload())
    async with world.watching(call) as task:
        call.say()
        await call.given()
        await world.change(SERVER.replace("namespace: a", "namespace: elsewhere"))
        with pytest.raises(CallFailed, match="no ModelServer names it"):
            await asyncio.wait_for(task, 60)
    assert call.sent.empty()


async def test_a_sidecar_is_given_what_it_does_not_have(world: World) -> None:
    call = FakeCall(workload())
    async with world.watching(call):
        call.say()
        first = await call.given()
        assert (first.base, first.text, keys(first)) == ("", "", ["MeshConfig/m", "ModelServer/s"])
        assert world.counts() == {"in-sync": 0, "behind": 1, "refused": 0, "gone": 0}
        call.say(version=first.version, software="0.1.0")
        await turns()
        assert world.counts() == {"in-sync": 1, "behind": 0, "refused": 0, "gone": 0}
        await world.change(f"{SERVER}---\n{ROUTE}")
        second = await call.given()
        assert (second.base, keys(second)) == (first.version, ["ModelRoute/r"])
        (watcher,) = world.service.watchers.values()
        assert (watcher.version, watcher.sent) == (first.version, second.version)
        assert watcher.state is SidecarState.BEHIND
        assert world.service.describe().version == world.documents.version
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
        await world.change(SERVER)
        third = await call.given()
        assert (third.version, third.base) == (first.version, second.version)
        assert (third.documents, third.removed) == ((), ("ModelRoute/r",))
    assert world.service.watchers == {}


async def test_what_does_not_concern_it_is_not_sent(world: World) -> None:
    replica, application = FakeCall(workload()), FakeCall(workload())
    async with world.watching(replica), world.watching(application):
        replica.say()
        application.say(OUTBOUND)
        before = await replica.given()
        await application.given()
        replica.say(version=before.version)
        await world.change(f"{SERVER}---\n{OTHER}")
        assert keys(await application.given()) == ["ModelServer/other"]
        assert replica.sent.empty()
        assert world.counts() == {"in-sync": 1, "behind": 1, "refused": 0, "gone": 0}


async def test_an_older_one_is_sent_all_of_it_as_text(world: World) -> None:
    call = FakeCall(workload())
    async with world.watching(call):
        call.send(b'{"sidecar":"resnet","version":"older"}')
        assert await call.given() == DocumentSet(world.documents.version, world.documents.text)
        await world.change(f"{SERVER}---\n{OTHER}")
        assert (await call.given()).text == f"{MESH}\n---\n{SERVER}---\n{OTHER}"


async def test_one_that_has_it_is_sent_nothing(world: World) -> None:
    first, second = FakeCall(workload()), FakeCall(workload())
    async with world.watching(first):
        first.say()
        version = (await first.given()).version
        async with world.watching(second):
            second.say(version=version)
            await turns()
            assert second.sent.empty()
            await world.change(f"{SERVER}---\n{ROUTE}")
            assert (await second.given()).base == version


async def test_one_that_missed_several_changes_is_sent_them_together(world: World) -> None:
    call, other = FakeCall(workload()), FakeCall(workload())
    call.reads = False
    async with world.watching(call), world.watching(other):
        other.say()
        call.say()
        version = (await call.given()).version
        await world.change(f"{SERVER}---\n{ROUTE}")
        await world.change(f"{SERVER}---\n{ROUTE.replace('name: r', 'name: t')}")
        assert call.sent.empty()
        assert other.sent.qsize() == 3
        call.drained()
        received = await call.given()
        assert (received.base, keys(received), received.removed) == (version, ["ModelRoute/t"], ("ModelRoute/r",))
    # And one that has missed more, everything.
    for name in range(module.KEPT_CHANGES + 1):
        await world.change(f"{SERVER}---\n{ROUTE.replace('name: r', f'name: r{name}')}")
    async with world.watching(other):
        other.say(version=version)
        await turns()
        assert keys([await other.given() for _ in range(4)][-1])[0] == "MeshConfig/m"


async def test_its_own_document_has_changed(world: World) -> None:
    await world.change(f"{SERVER}---\n{OTHER}")
    call = FakeCall(workload())
    async with world.watching(call):
        call.say()
        first = await call.given()
        call.say(Scope("other"), version=first.version)
        second = await call.given()
        assert (second.base, keys(second)) == ("", ["MeshConfig/m", "ModelServer/other"])
        assert list(world.service._groups) == [Scope("other")]


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
        (workload(), b'{"sidecar":"x","scope":"everything"}', GrpcStatus.INVALID_ARGUMENT),
    ):
        call = FakeCall(peer)
        if message is None:
            call.leave()
        else:
            call.send(message)
        async with world.watching(call) as task:
            with pytest.raises(CallFailed) as caught:
                await task
            assert caught.value.status is status
        assert world.service.watchers == {}
        assert world.service._groups == {}


async def test_one_that_says_too_much(world: World) -> None:
    """The others do not notice."""
    call, other = FakeCall(workload()), FakeCall(workload(), "10.0.0.2:1")
    async with world.watching(call) as task:
        for _ in range(int(module.REPORT_BURST) + 1):
            call.say()
        with pytest.raises(CallFailed, match="wait a few seconds") as caught:
            await task
    assert caught.value.status is GrpcStatus.RESOURCE_EXHAUSTED
    again = FakeCall(workload())
    again.say()
    async with world.watching(again) as task:
        with pytest.raises(CallFailed, match="wait a few seconds"):
            await task
    async with world.watching(other):
        other.say()
        await other.given()


async def test_a_stream_ends_with_its_certificate(world: World) -> None:
    call = FakeCall(workload(not_after=NOW + 0.05))
    async with world.watching(call) as task:
        call.say()
        with pytest.raises(CallFailed, match="has expired") as caught:
            async with asyncio.timeout(60):
                await task
    assert caught.value.status is GrpcStatus.UNAVAILABLE
    assert world.service.watchers == {}


async def test_a_sidecar_that_leaves(world: World) -> None:
    call = FakeCall(workload())
    async with world.watching(call) as task:
        call.say()
        await call.given()
        call.leave()
        async with asyncio.timeout(60):
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
        call.say(version=world.documents.version, host="pod-1", certificate_issued=900.0)
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


@pytest.mark.parametrize("time", [1e300, -1e300, -1.0])
async def test_a_time_that_is_no_date_is_not_known(world: World, time: float) -> None:
    call = FakeCall(workload())
    async with world.watching(call):
        call.say(certificate_issued=time, certificate_expires=time)
        await turns()
        (entry,) = world.service.entries()
        assert (entry.certificate_issued, entry.certificate_expires) == (None, moment(NOW + 60.0))


async def test_one_identity_asks_for_few_things_at_once(world: World) -> None:
    """What is in a scope is selected, encoded and kept for each; a sidecar may say that it has any."""
    asking = [FakeCall(workload(name="app")) for _ in range(module.SCOPES_OF_ONE)]
    async with AsyncExitStack() as stack:
        for number, call in enumerate(asking):
            await stack.enter_async_context(world.watching(call))
            call.say(Scope(outbound=True, outbound_server=f"server-{number}"))
            await call.given()
        world.now += 60.0  # it is not too soon for another one
        one_more = FakeCall(workload(name="app"))
        async with world.watching(one_more) as task:
            one_more.say(OUTBOUND)
            with pytest.raises(CallFailed, match="service accounts of their own") as refused:
                await asyncio.wait_for(task, 60)
        assert refused.value.status is GrpcStatus.RESOURCE_EXHAUSTED
        assert world.service.refused == 1
        # Neither a replica of one that is there, nor another identity.
        for scope, name in ((Scope(outbound=True, outbound_server="server-0"), "app"), (OUTBOUND, "other")):
            call = FakeCall(workload(name=name))
            async with world.watching(call):
                call.say(scope)
                await call.given()
        asking[0].leave()
        await turns()
        once_more = FakeCall(workload(name="app"))
        async with world.watching(once_more):
            once_more.say(Scope(outbound=True, outbound_server="once-more"))
            await once_more.given()


async def test_one_identity_does_not_ask_for_other_things_all_the_time(world: World) -> None:
    call = FakeCall(workload())
    async with world.watching(call) as task:
        for number in range(module.SCOPES_OF_ONE + 1):
            call.say(Scope(outbound=True, outbound_server=f"server-{number}"))
        with pytest.raises(CallFailed, match="or too often"):
            await asyncio.wait_for(task, 60)


async def test_versions_that_are_not_known_are_not_kept(world: World) -> None:
    group = Group(OUTBOUND, world.documents, "spiffe://m.example/ns/a/sa/b")
    everything = group.message("")
    tracemalloc.start()
    try:
        assert all(group.message(f"version {number}") is everything for number in range(1_000))
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()


async def test_what_is_kept_of_a_report_is_bounded(world: World) -> None:
    call = FakeCall(workload())
    async with world.watching(call):
        call.say(refused="r" * 1_000, problems=["p" * 2_000] * 30, software="unheard of", version="v")
        await turns()
        (watcher,) = world.service.watchers.values()
        assert (len(watcher.refused), [len(problem) for problem in watcher.problems]) == (256, [1_000] * 20)
        # Not interned, or the next one to intern it would be given the sidecar's.
        assert sys.intern("unheard of") is not watcher.software


async def test_whose_sidecars_tell_most_problems_gives_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others' are kept, and that the documents were refused is known of all."""
    monkeypatch.setattr(module, "PROBLEMS_BYTES", 40_000)
    modest = FakeCall(workload(name="modest"))
    greedy = [FakeCall(workload(name="greedy")) for _ in range(8)]
    async with AsyncExitStack() as stack:
        for number, call in enumerate([modest, *greedy]):
            await stack.enter_async_context(world.watching(call))
            call.say(OUTBOUND, refused="r", problems=[f"{number}" * 900] * (1 if call is modest else 6))
            await turns()
        first, *others = world.service.watchers.values()
        assert first.problems == ("0" * 900,)
        kept = [each for each in others if each.problems != module.NOT_KEPT]
        assert len(kept) == 1  # the first since the others gave way
        assert all(each.refused == "r" for each in others)
        greedy[-1].say(OUTBOUND)
        await turns()
        assert dict(world.service._problem_bytes) == {first.spiffe_id: sys.getsizeof("0" * 900)}
    assert not world.service._problem_bytes


async def test_a_connection_has_one_stream_of_documents(world: World) -> None:
    """The sidecar that opens another has given up the one before."""
    older, newer = FakeCall(workload()), FakeCall(workload())
    newer.info = older.info
    async with world.watching(older) as task, world.watching(newer):
        older.say()
        await older.given()
        newer.say()
        await newer.given()
        with pytest.raises(CallFailed, match="another stream of documents"):
            await asyncio.wait_for(task, 60)
        assert [each.call for each in world.service.watchers.values()] == [newer]
        assert world.counts() == {"in-sync": 0, "behind": 1, "refused": 0, "gone": 0}
        await world.change(f"{SERVER}---\n{ROUTE}")
        await newer.given()
    assert world.service.watchers == {}


async def test_what_many_sidecars_say_is_kept_once(world: World) -> None:
    one, other = FakeCall(workload()), FakeCall(workload())
    async with world.watching(one), world.watching(other):
        for call in (one, other):
            call.say(software="of both", version="v of both")
        await turns()
        first, second = world.service.watchers.values()
        assert first.software is second.software
        assert first.version is second.version


async def test_names_are_cut(world: World) -> None:
    call = FakeCall(workload())
    async with world.watching(call):
        call.say(host="h" * 1_000, software="s" * 1_000)
        await turns()
        (entry,) = world.service.entries()
        assert (len(entry.host), len(entry.software)) == (256, 256)
