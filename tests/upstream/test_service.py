"""Endpoints of a Service, as they are kept in a file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.config.servers import Service
from meshproxy.control_api import ServiceEndpoint, ServiceEndpoints
from meshproxy.identity.private_files import replace_file
from meshproxy.upstream import service as module
from meshproxy.upstream.discovery import EndpointAddress
from meshproxy.upstream.service import ServiceDiscovery, endpoint_file, endpoints_of, read_kept

KEY = "models/resnet"
PORTS = {"http": 8501, "grpc": 8500}
ONE = ServiceEndpoint("10.0.0.1", PORTS, "zone-a")
SIX = ServiceEndpoint("fd00::1", {"grpc": 9000})
SERVER = Service(namespace="models", name="resnet", rest="http", grpc="grpc")


class Found:
    """A discovery, and what it has told."""

    def __init__(self, folder: Path, settings: Service = SERVER) -> None:
        self.path = endpoint_file(folder, KEY)
        self.failures: list[str] = []
        self.told: list[tuple[EndpointAddress, ...]] = []
        self.discovery = ServiceDiscovery(settings, folder, self.failures.append)

    def write(self, *endpoints: ServiceEndpoint, version: str = "v", problem: str = "") -> None:
        self.path.parent.mkdir(exist_ok=True)
        kept = ServiceEndpoints(KEY, version, endpoints, problem)
        replace_file(self.path, msgspec.json.encode(kept), 0o600)

    def start(self) -> None:
        self.discovery.start(self.told.append)

    async def until_told(self, count: int) -> tuple[EndpointAddress, ...]:
        async with asyncio.timeout(60):
            while len(self.told) + len(self.failures) < count:
                await asyncio.sleep(0.005)
        return self.told[-1]


@pytest.fixture
async def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Found]:
    monkeypatch.setattr(module, "PERIOD", 0.01)
    found = Found(tmp_path)
    yield found
    await found.discovery.close()


def test_where_they_are_kept(tmp_path: Path) -> None:
    assert endpoint_file(tmp_path, KEY) == tmp_path / "endpoints/models.resnet.json"
    assert endpoint_file(tmp_path, "a/../../b").parent == tmp_path / "endpoints"
    assert read_kept(tmp_path / "nothing") is None


async def test_what_is_kept_is_told_at_once_and_again_when_it_changes(found: Found) -> None:
    found.write(ONE)
    found.start()
    one = EndpointAddress(rest="10.0.0.1:8501", grpc="10.0.0.1:8500", locality="zone-a")
    assert found.told == [(one,)]
    found.write(ONE, SIX, version="w")
    assert await found.until_told(2) == (one, EndpointAddress(grpc="[fd00::1]:9000"))
    found.write(version="x")
    assert await found.until_told(3) == ()
    assert found.failures == []


async def test_nothing_is_known_until_there_is_something(found: Found) -> None:
    found.start()
    assert (found.told, found.failures) == ([], [])
    found.write(version="", problem="not read yet")
    async with asyncio.timeout(60):
        while not found.failures:
            await asyncio.sleep(0.005)
    assert (found.told, found.failures) == ([], ["not read yet"])
    found.write(ONE)
    assert len(await found.until_told(2)) == 1


async def test_a_problem_leaves_the_last_good_ones(found: Found) -> None:
    found.write(ONE)
    found.start()
    found.write(ONE, problem="there is no Service models/resnet")
    await found.until_told(2)
    found.path.write_bytes(b"{")
    await found.until_told(3)
    found.path.unlink()
    found.write(ONE, SIX)
    await found.until_told(4)
    assert len(found.told) == 2
    assert found.failures[0] == "there is no Service models/resnet"
    assert "cannot be read" in found.failures[1]


async def test_what_could_not_be_read_is_read_again(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors were short when it was written: it does not change when there are some again."""
    monkeypatch.setattr("meshproxy.config.file_watch.AGAIN", 0.0)
    found.write(ONE)

    def fail(path: Path) -> None:
        raise ValueError("Too many open files")

    with monkeypatch.context() as short:
        short.setattr(module, "read_kept", fail)
        found.start()
    assert (found.told, len(found.failures)) == ([], 1)
    assert len(await found.until_told(2)) == 1


async def test_ports_that_nobody_has(found: Found) -> None:
    other = Found(found.path.parent.parent, Service(namespace="models", name="resnet", sidecar="mesh"))
    other.write(ONE)
    other.start()
    assert other.told == []
    assert other.failures == ['Service models/resnet: no endpoint has a port named "mesh"; there are "grpc", "http"']
    await other.discovery.close()


@pytest.mark.parametrize(
    "wrong",
    [
        ServiceEndpoint("resnet.example", PORTS),
        ServiceEndpoint("0.0.0.0", PORTS),
        ServiceEndpoint("10.0.0.1", {"grpc": 0}),
        ServiceEndpoint("10.0.0.1", {"grpc": 65_536}),
    ],
)
def test_what_cannot_be_an_endpoint(wrong: ServiceEndpoint) -> None:
    with pytest.raises(ValueError):
        endpoints_of(ServiceEndpoints(KEY, "v", (ONE, wrong)), SERVER)


def test_names_of_ports_stay_on_one_line() -> None:
    kept = ServiceEndpoints(KEY, "v", (ServiceEndpoint("10.0.0.1", {"a\nb" + "c" * 1_000: 1}),))
    with pytest.raises(ValueError, match=r'there are "a\\nbc{57}"\.\.\.$'):
        endpoints_of(kept, SERVER)


def test_the_only_port_needs_no_name_and_each_endpoint_counts_once() -> None:
    unnamed = Service(namespace="models", name="resnet", sidecar="")
    kept = ServiceEndpoints(KEY, "v", (ServiceEndpoint("10.0.0.1", {"": 18500}),) * 2)
    assert endpoints_of(kept, unnamed) == (EndpointAddress(sidecar="10.0.0.1:18500"),)


def test_no_more_than_a_server_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ENDPOINTS", 1)
    assert len(endpoints_of(ServiceEndpoints(KEY, "v", (ONE, SIX)), SERVER)) == 1


@settings(max_examples=40)
@given(st.binary() | st.builds(msgspec.json.encode, st.builds(ServiceEndpoints, st.text(), st.text())))
def test_whatever_the_file_has(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    try:
        kept = read_kept(path)
        assert kept is not None
        endpoints_of(kept, SERVER)
    except ValueError:
        pass
