"""Documents from a control plane: the real one in this process, over mTLS on loopback."""

from __future__ import annotations

import asyncio
import logging
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from meshproxy import __version__
from meshproxy.config import file_watch
from meshproxy.config.file_watch import FileWatch
from meshproxy.config.load import load, load_own
from meshproxy.config.problems import ConfigError
from meshproxy.config.schema import Documents, Sidecar
from meshproxy.config.sidecars import ControlPlane
from meshproxy.config.values import Address
from meshproxy.control import distribution
from meshproxy.control.app import ControlPlane as ControlProcess
from meshproxy.control.attestation import make_token
from meshproxy.control.settings import Settings
from meshproxy.control.status import moment
from meshproxy.control_api import WATCH, DocumentSet, SidecarReport
from meshproxy.devtools.local_mesh import document
from meshproxy.identity.private_files import replace_file
from meshproxy.sidecar import control_documents as module
from meshproxy.sidecar import reconnect
from meshproxy.sidecar.control_documents import ControlDocuments
from meshproxy.sidecar.control_link import ControlLink
from meshproxy.sidecar.document_source import DocumentSource
from meshproxy.sidecar.mesh_documents import MeshDocuments

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

ID = "spiffe://m.example/ns/models/sa/resnet"
ROLE = {"rules": [{"models": ["*"], "verbs": ["predict"]}]}
CONTROL = "spiffe://m.example/ns/meshproxy/sa/control"


def model_server(rest: str, name: str) -> dict[str, Any]:
    """It names the workload of the sidecar, which is given no documents of an inbound port otherwise."""
    return document("ModelServer", {"endpoints": [{"rest": rest}], "workload": {"spiffeId": ID}}, name)


class World:
    """A control plane with documents, and the document of one sidecar."""

    workers = 1

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "mesh").mkdir()
        self.write_mesh("127.0.0.1:8501")
        free = Address("127.0.0.1", 0)
        self.process = ControlProcess(
            Settings(folder / "control", "m.example", CONTROL, free, free, documents=(str(folder / "mesh"),))
        )
        self.process.listener.listen("127.0.0.1", 0)
        host, _, port = self.process.listener.address.rpartition(":")
        self.settings = ControlPlane(
            address=Address(host, int(port)),
            spiffe_id=CONTROL,
            trust_bundle=str(folder / "control/authority.pem"),
            folder=str(folder / "kept"),
            join_token=str(folder / "token"),
            documents=True,
        )
        self.own = folder / "sidecar.yaml"
        self.write_own("s")
        self.links: list[ControlLink] = []

    def write_own(self, server: str) -> None:
        control = {
            "address": str(self.settings.address),
            "spiffeId": CONTROL,
            "trustBundle": self.settings.trust_bundle,
            "folder": self.settings.folder,
            "documents": True,
        }
        inbound = {"listen": "127.0.0.1:0", "server": server}
        spec = {"inbound": inbound, "controlPlane": control, "workers": self.workers}
        self.own.write_text(yaml.safe_dump(document("Sidecar", spec, "resnet-0")))

    def write_mesh(self, rest: str, *more: Any) -> None:
        documents = [
            document("MeshConfig", {"trustDomain": "m.example"}, "m"),
            model_server(rest, "s"),
            *more,
        ]
        (self.folder / "mesh/mesh.yaml").write_text(yaml.safe_dump_all(documents))

    async def change(self, rest: str, *more: Any) -> str:
        """Change the documents of the mesh. Returns their version."""
        assert self.process.documents is not None
        self.write_mesh(rest, *more)
        await self.process.documents.reload()
        return self.process.documents.version

    def sidecar(self) -> Sidecar:
        own = load_own([str(self.own)])
        assert isinstance(own, Sidecar)
        return own

    def link(self) -> ControlLink:
        token = make_token(self.process.store, ID, time.time(), 60.0)
        Path(self.settings.join_token or "").write_text(token)
        watch = FileWatch(lambda: [self.own])
        link = ControlLink([str(self.own)], self.sidecar(), self.settings, watch)
        self.links.append(link)
        return link

    def states(self) -> dict[str, float]:
        return {labels[0]: value for labels, value in self.process.distribution.count()}

    async def settled(self, **expected: float) -> None:
        async with asyncio.timeout(60):
            while self.states() != {"in-sync": 0, "behind": 0, "refused": 0, "gone": 0, **expected}:
                await asyncio.sleep(0.01)


class OlderReport(SidecarReport, frozen=True):
    """As a control plane of an earlier version understands it."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "scope", None)


def endpoint(documents: Documents) -> str | None:
    return documents.servers[0].spec.endpoints[0].rest


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async def load_here(paths: Any) -> Documents:
        return load(paths)

    async def load_own_here(paths: Any) -> Documents | Sidecar:
        return load_own(paths)

    monkeypatch.setattr(module, "load_in_child", load_here)
    monkeypatch.setattr(module, "load_own_in_child", load_own_here)
    monkeypatch.setattr(reconnect, "FIRST_RETRY", 0.01)
    world = World(tmp_path)
    await world.process.documents.first()  # type: ignore[union-attr]
    try:
        yield world
    finally:
        world.process.listener.stop_accepting()
        await world.process.server.close()
        await world.process.listener.close()


async def started(link: ControlLink) -> tuple[ControlDocuments, Documents, asyncio.Task[None]]:
    documents = await link.join()
    assert documents is not None
    assert link.documents is not None
    running = asyncio.create_task(link.run())
    await asyncio.sleep(0)  # begun, so that it ends what it has begun
    return link.documents, documents, running


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_first_set_is_waited_for_and_kept(world: World) -> None:
    _, documents, task = await started(world.link())
    assert documents.sidecar.metadata.name == "resnet-0"
    assert endpoint(documents) == "127.0.0.1:8501"
    await world.settled(**{"in-sync": 1})
    kept = world.folder / "kept/documents.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    (watcher,) = world.process.distribution.watchers.values()
    assert (watcher.sidecar, watcher.spiffe_id) == ("resnet-0", ID)
    await end(task)


async def test_a_change_is_taken_into_use(world: World) -> None:
    found, _, task = await started(world.link())
    source: DocumentSource = found
    changed = asyncio.Event()
    source.start(changed.set)
    await world.change("127.0.0.1:8502")
    async with asyncio.timeout(60):
        await changed.wait()
    await world.settled(behind=1)
    documents = await source.load()
    assert endpoint(documents) == "127.0.0.1:8502"
    source.applied(documents)
    await world.settled(**{"in-sync": 1})
    source.stop()
    await end(task)


class SlowDisk:
    """Writes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[str] = []
        self.goes_on = threading.Event()
        monkeypatch.setattr(module, "replace_file", self._replace)

    def _replace(self, path: Path, content: bytes, mode: int) -> None:
        self.begun.append(content.decode())
        assert self.goes_on.wait(10)
        replace_file(path, content, mode)


async def test_nothing_waits_for_a_slow_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The set is in use meanwhile, and reported when it is kept; of those that come meanwhile the last is kept."""
    source, _, task = await started(world.link())
    await world.settled(**{"in-sync": 1})
    disk = SlowDisk(monkeypatch)
    changed = asyncio.Event()
    source.start(changed.set)
    for port in (8502, 8503, 8504):
        await world.change(f"127.0.0.1:{port}")
        async with asyncio.timeout(60):
            await changed.wait()
        changed.clear()
        documents = await source.load()
        assert endpoint(documents) == f"127.0.0.1:{port}"
        source.applied(documents)
        async with asyncio.timeout(60):
            while not disk.begun:
                await asyncio.sleep(0.01)
    (watcher,) = world.process.distribution.watchers.values()
    assert watcher.version != watcher.group.version
    disk.goes_on.set()
    await world.settled(**{"in-sync": 1})
    assert ["8502" in disk.begun[0], "8504" in disk.begun[1], len(disk.begun)] == [True, True, 2]
    assert "8504" in (world.folder / "kept/documents.json").read_text()
    source.stop()
    await end(task)


async def test_what_is_being_written_at_the_end_is_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    source, _, task = await started(world.link())
    await world.settled(**{"in-sync": 1})
    disk = SlowDisk(monkeypatch)
    changed = asyncio.Event()
    source.start(changed.set)
    await world.change("127.0.0.1:8502")
    async with asyncio.timeout(60):
        await changed.wait()
    source.applied(await source.load())
    asyncio.get_running_loop().call_later(0.05, disk.goes_on.set)
    source.stop()
    await end(task)
    assert "8502" in (world.folder / "kept/documents.json").read_text()


async def test_a_change_brings_what_has_changed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[DocumentSet] = []
    take = MeshDocuments.received

    async def watched(message: DocumentSet, *others: Any) -> MeshDocuments:
        received.append(message)
        return await take(message, *others)

    monkeypatch.setattr(MeshDocuments, "received", watched)
    source, documents, task = await started(world.link())
    changed = asyncio.Event()
    source.start(changed.set)
    version = await world.change("127.0.0.1:8502")
    async with asyncio.timeout(60):
        await changed.wait()
    newer = await source.load()
    assert [len(message.documents) for message in received] == [2, 1]
    assert received[1].base == received[0].version
    assert newer.mesh is documents.mesh
    assert newer.fingerprint != documents.fingerprint
    source.applied(newer)
    await world.settled(**{"in-sync": 1})
    # What is no longer there is named.
    await world.change("127.0.0.1:8502", document("ModelRole", ROLE, "r"))
    await world.change("127.0.0.1:8502")
    async with asyncio.timeout(60):
        while received[-1].removed != ("ModelRole/r",):
            await asyncio.sleep(0.01)
    assert received[-1].version == version
    source.stop()
    await end(task)


async def test_a_change_that_does_not_go_with_what_it_has(world: World) -> None:
    """It asks for everything."""
    source, _, task = await started(world.link())
    await world.settled(**{"in-sync": 1})
    source.start(lambda: None)
    source._in_use = source._newest = None
    version = await world.change("127.0.0.1:8502")
    async with asyncio.timeout(60):
        while source._newest is None:
            await asyncio.sleep(0.01)
    assert source._newest.version == version
    assert endpoint(await source.load()) == "127.0.0.1:8502"
    source.stop()
    await end(task)


async def test_its_own_document_is_changed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other documents concern it then."""
    monkeypatch.setattr(file_watch, "PERIOD", 0.01)
    other = model_server("127.0.0.1:1", "other")
    source, _, task = await started(world.link())
    changed = asyncio.Event()
    source.start(changed.set)
    await world.change("127.0.0.1:8501", other)
    assert source._newest is not None
    before = source._newest.version
    world.write_own("other")
    async with asyncio.timeout(60):
        while source._newest.version == before:
            await changed.wait()
            changed.clear()
            with suppress(ConfigError):
                await source.load()
    documents = await source.load()
    assert [server.metadata.name for server in documents.servers] == ["other"]
    source.stop()
    await end(task)


async def test_its_own_document_names_another_server_while_the_control_plane_is_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on with what it has, and is sent the other's documents later: also those that it has the version of."""
    await world.change("127.0.0.1:8501", model_server("127.0.0.1:1", "other"), route_to_both())
    source, documents, task = await started(world.link())
    await world.settled(**{"in-sync": 1})
    await end(task)
    world.write_own("other")
    changed = asyncio.Event()
    source.start(changed.set)
    source._own_changed()
    assert {server.metadata.name for server in documents.servers} == {"s", "other"}
    with pytest.raises(ConfigError, match='selected for "s"'):
        await source.load()
    changed.clear()
    task = asyncio.create_task(source.run())
    async with asyncio.timeout(60):
        await changed.wait()
    after = await source.load()
    assert after.servers == documents.servers
    source.stop()
    await end(task)


def route_to_both() -> Any:
    spec = {"models": ["a"], "split": [{"server": name, "weight": 1} for name in ("s", "other")]}
    return document("ModelRoute", spec, "both")


async def test_an_older_control_plane_sends_text(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "SidecarReport", OlderReport)
    _, documents, task = await started(world.link())
    assert endpoint(documents) == "127.0.0.1:8501"
    await world.settled(**{"in-sync": 1})
    assert (world.folder / "kept/documents/mesh.yaml").read_text().startswith("# version ")
    await end(task)
    # Kept by an older sidecar, or from an older control plane: it starts from it, and the next set takes its place.
    monkeypatch.setattr(distribution, "SidecarReport", SidecarReport)
    world.process.distribution._groups.clear()
    _, documents, task = await started(world.link())
    assert endpoint(documents) == "127.0.0.1:8501"
    await end(task)


async def test_what_is_kept_may_be_damaged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    _, _, task = await started(world.link())
    await end(task)
    kept = world.folder / "kept/documents.json"
    kept.write_text(kept.read_text().replace("8501", "8509"))
    kept.write_text(kept.read_text()[:-10])
    _, documents, task = await started(world.link())
    assert endpoint(documents) == "127.0.0.1:8501"
    assert any("cannot be used" in record.message for record in caplog.records)
    await end(task)


async def test_what_is_refused_changes_nothing(world: World) -> None:
    """Here: the server of this sidecar is gone, which the control plane cannot know."""
    source, _, task = await started(world.link())
    changed = asyncio.Event()
    source.start(changed.set)
    before = world.process.documents.version  # type: ignore[union-attr]
    other = model_server("127.0.0.1:1", "other")
    mesh = document("MeshConfig", {"trustDomain": "m.example"}, "m")
    (world.folder / "mesh/mesh.yaml").write_text(yaml.safe_dump_all([mesh, other]))
    await world.process.documents.reload()  # type: ignore[union-attr]
    async with asyncio.timeout(60):
        await changed.wait()
    with pytest.raises(Exception, match="no ModelServer") as caught:
        await source.load()
    source.refused([str(caught.value)], is_to_retry=True)
    await world.settled(refused=1)
    with pytest.raises(Exception, match="no ModelServer"):
        await source.load()  # not those before, which would look as if all were in sync
    source.refused([str(caught.value)])
    (watcher,) = world.process.distribution.watchers.values()
    assert watcher.version == before
    assert "no ModelServer" in watcher.problems[0]
    assert endpoint(await source.load()) == "127.0.0.1:8501"  # whatever it is loaded for next
    await world.change("127.0.0.1:8503")
    async with asyncio.timeout(60):
        while endpoint(await source.load()) != "127.0.0.1:8503":
            await asyncio.sleep(0.01)
    source.stop()
    await end(task)


async def test_a_restart_needs_no_control_plane(world: World) -> None:
    _, _, task = await started(world.link())
    await end(task)
    world.process.listener.stop_accepting()
    source, documents, task = await started(world.link())
    assert endpoint(documents) == "127.0.0.1:8501"
    assert source._report.version == world.process.documents.version  # type: ignore[union-attr]
    await end(task)


async def test_a_first_set_that_does_not_fit_is_refused_and_the_next_one_waited_for(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.write_own("later")
    link = world.link()
    joining = asyncio.create_task(link.join())
    await world.settled(refused=1)
    assert not joining.done()
    later = document("ModelServer", {"endpoints": [{"rest": "127.0.0.1:8504"}]}, "later")
    await world.change("127.0.0.1:8501", later)
    async with asyncio.timeout(60):
        documents = await joining
    assert documents is not None
    assert [server.metadata.name for server in documents.servers] == ["later"]  # the other one does not concern it
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == ["documents rejected"]
    running = asyncio.create_task(link.run())
    await asyncio.sleep(0)
    await end(running)


async def test_kept_documents_that_no_longer_fit(world: World) -> None:
    """Its own document was changed while it was down: it waits until the two go together."""
    _, _, task = await started(world.link())
    await end(task)
    world.write_own("later")
    link = world.link()
    joining = asyncio.create_task(link.join())
    await world.settled(refused=1)
    world.write_own("s")
    async with asyncio.timeout(60):
        documents = await joining
    assert documents is not None
    assert endpoint(documents) == "127.0.0.1:8501"
    running = asyncio.create_task(link.run())
    await asyncio.sleep(0)
    await end(running)


async def test_the_stream_is_opened_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    source, _, task = await started(world.link())
    await world.settled(**{"in-sync": 1})
    for connection in list(world.process.listener.connections):
        connection.abort()
    await world.settled(**{"in-sync": 1})
    source.start(lambda: None)
    version = await world.change("127.0.0.1:8506")
    async with asyncio.timeout(60):
        while source._newest is None or source._newest.version != version:
            await asyncio.sleep(0.01)
    assert any(record.message.startswith("no documents from the control plane") for record in caplog.records)
    source.stop()
    await end(task)


async def test_a_supervisor_checks_and_shares_each_set(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.workers = 2
    monkeypatch.setattr(module, "AGAIN", 0.01)
    world.write_own("s")
    source, _, task = await started(world.link())
    shared: list[str | None] = []
    is_full = False

    def share(documents: Documents) -> None:
        if is_full:
            raise OSError(28, "No space left on device")
        shared.append(endpoint(documents))

    alone = asyncio.create_task(source.apply_alone(share))
    await asyncio.sleep(0)
    await world.change("127.0.0.1:8507")
    await world.settled(**{"in-sync": 1})
    assert shared == ["127.0.0.1:8507"]
    assert "8507" in (world.folder / "kept/documents.json").read_text()
    mesh = document("MeshConfig", {"trustDomain": "m.example"}, "m")
    other = model_server("127.0.0.1:1", "other")
    (world.folder / "mesh/mesh.yaml").write_text(yaml.safe_dump_all([mesh, other]))
    await world.process.documents.reload()  # type: ignore[union-attr]
    await world.settled(refused=1)
    is_full = True
    await world.change("127.0.0.1:8508")
    async with asyncio.timeout(60):
        while not any("No space left" in str(record.__dict__.get("fields")) for record in caplog.records):
            await asyncio.sleep(0.01)
    await world.settled(refused=1)
    assert shared == ["127.0.0.1:8507"]
    assert "8507" in (world.folder / "kept/documents.json").read_text()
    is_full = False  # no document changes now
    await world.settled(**{"in-sync": 1})
    assert shared == ["127.0.0.1:8507", "127.0.0.1:8508"]
    ours = [record.__dict__.get("fields") for record in caplog.records if record.name == module.logger.name]
    assert sum("No space left" in str(fields) for fields in ours) == 1
    await end(alone)
    await end(task)


@pytest.mark.parametrize("is_older", [False, True], ids=["parsed", "text"])
async def test_a_disk_that_is_full(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_older: bool
) -> None:
    """What is parsed is used, and not kept; text is not taken, as it is loaded from the folder."""
    if is_older:
        monkeypatch.setattr(distribution, "SidecarReport", OlderReport)
    source, _, task = await started(world.link())

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "replace_file", full)
    changed = asyncio.Event()
    source.start(changed.set)
    await world.change("127.0.0.1:8508")
    if not is_older:
        async with asyncio.timeout(60):
            await changed.wait()
        source.applied(await source.load())
        await world.settled(**{"in-sync": 1})
    async with asyncio.timeout(60):
        while not any("No space left" in str(record.__dict__.get("fields")) for record in caplog.records):
            await asyncio.sleep(0.01)
    assert endpoint(await source.load()) == ("127.0.0.1:8501" if is_older else "127.0.0.1:8508")
    assert "8508" not in "".join(path.read_text() for path in (world.folder / "kept").rglob("*") if path.is_file())
    source.stop()
    await end(task)


async def test_one_that_stops_is_told_from_one_that_is_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, task = await started(world.link())
    await world.settled(**{"in-sync": 1})
    (entry,) = world.process.distribution.entries()
    assert (entry.host, entry.software) == (socket.gethostname(), __version__)
    assert entry.certificate_issued is not None
    assert entry.certificate_issued.timestamp() == pytest.approx(time.time(), abs=30)
    assert entry.certificate_expires.timestamp() == pytest.approx(time.time() + 86_400, abs=60)
    await end(task)
    await world.settled()
    _, _, task = await started(world.link())
    await world.settled(**{"in-sync": 1})
    monkeypatch.setattr(reconnect, "FIRST_RETRY", 30.0)
    for connection in list(world.process.listener.connections):
        connection.abort()
    await world.settled(gone=1)
    await end(task)


async def test_a_new_certificate_is_reported(world: World) -> None:
    source, _, task = await started(world.link())
    await world.settled(**{"in-sync": 1})
    source.tell_certificate(1_000.0, 2_000.0)
    async with asyncio.timeout(60):
        while [each.certificate_expires for each in world.process.distribution.entries()] != [moment(2_000.0)]:
            await asyncio.sleep(0.01)
    await end(task)


async def test_a_control_plane_that_knows_no_such_method(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """An older one, or one without documents: what is kept stays in use."""
    _, _, task = await started(world.link())
    await world.settled(**{"in-sync": 1})
    await end(task)
    del world.process.server._methods[WATCH]  # type: ignore[attr-defined]
    _, documents, task = await started(world.link())
    assert endpoint(documents) == "127.0.0.1:8501"
    async with asyncio.timeout(60):
        while not any("no such method" in str(record.__dict__.get("fields")) for record in caplog.records):
            await asyncio.sleep(0.01)
    assert not task.done()
    await end(task)
