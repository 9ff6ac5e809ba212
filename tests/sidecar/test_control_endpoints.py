"""Endpoints from a control plane, over HTTP/2 on loopback; `test_control_documents` is over mTLS."""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import pytest

from meshproxy.config import schema, servers
from meshproxy.control.discovery import EndpointService
from meshproxy.control.endpoints import EndpointTable
from meshproxy.control_api import WATCH_ENDPOINTS, ServiceEndpoints
from meshproxy.identity.private_files import replace_file
from meshproxy.sidecar import control_endpoints as module
from meshproxy.sidecar import control_stream, reconnect
from meshproxy.sidecar.control_endpoints import ControlEndpoints, services_of
from meshproxy.telemetry.control_metrics import ControlMetrics
from meshproxy.transport.channel import H2Channel, Target
from meshproxy.upstream.service import endpoint_file, read_kept
from tests.control.test_distribution import NOW, workload
from tests.control.test_endpoints import A, B, a_slice
from tests.transport.test_grpc_server import Port


def documents(*services: str) -> schema.Documents:
    """Documents that name these Services."""
    made = []
    for key in services:
        namespace, _, name = key.partition("/")
        spec = servers.ServerSpec(service=servers.Service(namespace=namespace, name=name, grpc="grpc"))
        made.append(schema.ModelServer(metadata=schema.Metadata(name), spec=spec))
    plain = servers.ServerSpec(endpoints=(servers.Endpoint(rest="a:1"),))
    made.append(schema.ModelServer(metadata=schema.Metadata("plain"), spec=plain))
    nothing: Any = None
    return schema.Documents(mesh=nothing, sidecar=nothing, servers=tuple(made), fingerprint="")


class Control(Port):
    """The endpoints of a control plane, on a port, and the way there (`control_channel.ControlChannel`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = EndpointTable()
        self.table.name([A, B])
        super().__init__(EndpointService(self.table, ControlMetrics(), lambda: NOW).methods, workload())
        self.address = self.listener.address
        self.opened = 0
        self.open_calls = 0
        self.running: list[asyncio.Task[None]] = []

    def streams(self) -> H2Channel:
        self.opened += 1
        return H2Channel(self.shared, Target(self.address), connect_timeout=5.0)

    def sidecar(self) -> ControlEndpoints:
        """One that has begun to follow."""
        endpoints = ControlEndpoints(self.folder, self)  # type: ignore[arg-type]
        self.running.append(asyncio.create_task(endpoints.run()))
        return endpoints

    async def end_streams(self) -> None:
        for connection in list(self.listener.connections):
            connection.abort()
        await asyncio.sleep(0)

    async def close(self) -> None:
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)
        await super().close()

    def kept(self, service: str = A) -> ServiceEndpoints | None:
        return read_kept(endpoint_file(self.folder, service))

    async def until_kept(self, hosts: Collection[str], service: str = A, problem: str = "") -> None:
        """Until these are in the file."""
        async with asyncio.timeout(60):
            while (
                (kept := self.kept(service)) is None
                or [each.address for each in kept.endpoints] != hosts
                or problem not in kept.problem
                or bool(problem) != bool(kept.problem)
            ):
                await asyncio.sleep(0.005)


@pytest.fixture
async def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Control]:
    monkeypatch.setattr(reconnect, "FIRST_RETRY", 0.01)
    control = Control(tmp_path)
    yield control
    await control.close()


def test_what_documents_name() -> None:
    assert services_of(documents()) == set()
    assert services_of(documents(A, B, A)) == {A, B}


async def test_what_is_needed_is_asked_for_and_kept(control: Control) -> None:
    sidecar = control.sidecar()
    await asyncio.sleep(0)
    assert control.opened == 0  # nobody needs anything
    control.table.replace([A, B], [a_slice(), a_slice(B, "two", "10.0.0.2")])
    sidecar.adopt(documents(A))
    await control.until_kept(["10.0.0.1"])
    path = endpoint_file(control.folder, A)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    control.table.put(a_slice(A, "more", "10.0.0.3"))
    await control.until_kept(["10.0.0.1", "10.0.0.3"])
    control.table.put(a_slice(A, "more", "10.0.0.4"))
    await control.until_kept(["10.0.0.1", "10.0.0.4"])
    assert control.kept(B) is None
    assert control.opened == 1


async def test_documents_that_may_come_into_use_need_theirs_too(control: Control) -> None:
    control.table.replace([A, B], [a_slice(), a_slice(B, "two", "10.0.0.2")])
    sidecar = control.sidecar()
    sidecar.adopt(documents(A))
    await control.until_kept(["10.0.0.1"])
    sidecar.prepare(documents(B))
    await control.until_kept(["10.0.0.2"], B)
    assert control.kept() is not None
    sidecar.adopt(documents(B))
    async with asyncio.timeout(60):
        while control.kept() is not None:
            await asyncio.sleep(0.005)
    assert control.kept(B) is not None


async def test_an_empty_service_has_none_and_one_that_vanished_keeps_its_last(
    control: Control, caplog: pytest.LogCaptureFixture
) -> None:
    control.table.replace([A, B], [a_slice(), a_slice(B, "two", "10.0.0.2")])
    control.sidecar().adopt(documents(A, B))
    await control.until_kept(["10.0.0.1"])
    control.table.remove("models", "one")
    await control.until_kept(["10.0.0.1"], problem="Service models/a: there is none, or it has no EndpointSlice")
    control.table.put(a_slice(B, "two", "0.0.0.0"))  # a slice, and no endpoint in it
    await control.until_kept([], B)
    control.table.put(a_slice())
    await control.until_kept(["10.0.0.1"])
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.message == "endpoints of Service models/a"
    assert "no EndpointSlice" in record.__dict__["fields"]["problem"]


async def test_what_was_missed_comes_with_the_next_stream(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    control.table.replace([A, B], [a_slice(), a_slice(B, "two", "10.0.0.2")])
    control.sidecar().adopt(documents(A, B))
    await control.until_kept(["10.0.0.1"])
    await control.until_kept(["10.0.0.2"], B)
    await control.end_streams()
    control.table.put(a_slice(A, "one", "10.0.0.7"))
    before = endpoint_file(control.folder, B).stat().st_mtime_ns
    await control.until_kept(["10.0.0.7"])
    assert endpoint_file(control.folder, B).stat().st_mtime_ns == before  # it had that
    assert [record.message for record in caplog.records] == ["no endpoints from the control plane; trying again"]


async def test_a_restart_begins_with_what_was_kept(control: Control) -> None:
    control.table.replace([A], [a_slice()])
    control.sidecar().adopt(documents(A))
    await control.until_kept(["10.0.0.1"])
    control.running[0].cancel()
    await control.end_streams()
    control.table.replace([A], [])
    control.sidecar().adopt(documents(A))
    await control.until_kept(["10.0.0.1"], problem="no EndpointSlice")
    control.running[1].cancel()
    await control.end_streams()
    control.table.replace([A], [a_slice()])  # of the same version as what is kept beside the problem
    control.sidecar().adopt(documents(A))
    await control.until_kept(["10.0.0.1"])


async def test_a_file_that_cannot_be_read_is_written_again(control: Control) -> None:
    control.table.replace([A], [a_slice()])
    path = endpoint_file(control.folder, A)
    path.parent.mkdir()
    path.write_bytes(b"{")
    control.sidecar().adopt(documents(A))
    async with asyncio.timeout(60):
        while path.read_bytes() == b"{":
            await asyncio.sleep(0.005)
    await control.until_kept(["10.0.0.1"])


async def test_a_disk_that_is_full(
    control: Control, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    def full_at_first(*arguments: Any) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError(28, "No space left on device")
        replace_file(*arguments)

    monkeypatch.setattr(module, "replace_file", full_at_first)
    control.table.replace([A], [a_slice()])
    control.sidecar().adopt(documents(A))
    await control.until_kept(["10.0.0.1"])
    (record,) = caplog.records
    assert "No space left" in record.__dict__["fields"]["problem"]


async def test_a_control_plane_that_is_not_understood(
    control: Control, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def nonsense(call: Any) -> None:
        await call.send(b"[]")

    control.server._methods = {WATCH_ENDPOINTS: nonsense}
    control.sidecar().adopt(documents(A))
    async with asyncio.timeout(60):
        while not caplog.records:
            await asyncio.sleep(0.005)
    assert "the endpoints are not understood" in caplog.records[0].__dict__["fields"]["problem"]
    assert control.kept() is None


async def test_an_older_control_plane_is_asked_again_later(
    control: Control, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(control_stream, "OLDER_SECONDS", 0.01)
    methods, control.server._methods = control.server._methods, {}
    control.table.replace([A], [a_slice()])
    control.sidecar().adopt(documents(A))
    async with asyncio.timeout(60):
        while not caplog.records:
            await asyncio.sleep(0.005)
    assert "sends no endpoints" in caplog.records[0].message
    control.server._methods = methods
    await control.until_kept(["10.0.0.1"])
