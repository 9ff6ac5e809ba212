"""Objects that several control planes write, of an API server that is made up; tests/e2e has a real one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import msgspec
import pytest

from meshproxy.control.cluster import connect_blocking
from meshproxy.control.shared_objects import Full, SharedObjects, Version
from meshproxy.control.store import Changed, StoreError, Unreachable
from tests.control.fake_api_server import FakeApiServer

in_thread = asyncio.to_thread
NAME = "records"
KEY = ("/api/v1/namespaces/mesh/configmaps", "mesh", NAME)


@pytest.fixture
async def objects(fake: FakeApiServer, tmp_path: Path) -> AsyncIterator[SharedObjects]:
    objects = SharedObjects(connect_blocking(fake.write_kubeconfig(tmp_path, "mesh")), "mesh")
    yield objects
    objects.close()


async def test_entries_are_set_and_removed(objects: SharedObjects) -> None:
    assert await in_thread(objects.read, "configmaps", NAME) == ({}, Version(""))
    await in_thread(objects.write, "configmaps", NAME, {"gone": None})
    assert (await in_thread(objects.read, "configmaps", NAME))[1] == Version("")
    await in_thread(objects.write, "configmaps", NAME, {"a": "1", "b": "2", "gone": None})
    await in_thread(objects.write, "configmaps", NAME, {"a": None, "c": "3"})
    found, version = await in_thread(objects.read, "configmaps", NAME)
    assert found == {"b": "2", "c": "3"}
    assert version.text
    assert time.time() - 60.0 < version.created <= time.time()
    assert version.size == len("23")


class Entry(msgspec.Struct):
    name: str


async def test_entries_that_are_structs(objects: SharedObjects, fake: FakeApiServer) -> None:
    await in_thread(objects.write_structs, NAME, {"a": Entry("1"), "b": Entry("2")})
    _, version = await in_thread(objects.read_structs, NAME, Entry, "an entry")
    await in_thread(objects.write_structs, NAME, {"a": None, "c": Entry("3")}, version)
    assert fake.objects[KEY]["data"] == {"b": '{"name":"2"}', "c": '{"name":"3"}'}
    assert (await in_thread(objects.read_structs, NAME, Entry, "an entry"))[0] == {"b": Entry("2"), "c": Entry("3")}
    with pytest.raises(Changed):
        await in_thread(objects.write_structs, NAME, {"b": None}, version)
    await in_thread(objects.write, "configmaps", NAME, {"d": "{}"})
    with pytest.raises(StoreError, match=r"^an entry of the ConfigMap mesh/records is not an entry \(.*`name`"):
        await in_thread(objects.read_structs, NAME, Entry, "an entry")


async def test_a_write_on_a_version(objects: SharedObjects, fake: FakeApiServer) -> None:
    await in_thread(objects.write, "configmaps", NAME, {"a": "1"}, Version(""))
    with pytest.raises(Changed):  # somebody has made it meanwhile
        await in_thread(objects.write, "configmaps", NAME, {"a": "2"}, Version(""))
    _, version = await in_thread(objects.read, "configmaps", NAME)
    await in_thread(objects.write, "configmaps", NAME, {"a": "3"}, version)
    with pytest.raises(Changed, match="ConfigMap mesh/records"):
        await in_thread(objects.write, "configmaps", NAME, {"a": "4"}, version)
    assert fake.objects[KEY]["data"] == {"a": "3"}
    del fake.objects[KEY]
    with pytest.raises(Changed, match="was deleted meanwhile"):
        await in_thread(objects.write, "configmaps", NAME, {"a": "5"}, version)


async def test_two_that_make_it_at_once(objects: SharedObjects, fake: FakeApiServer) -> None:
    """Each has its own entries: both are there."""
    writes = [in_thread(objects.write, "configmaps", NAME, {str(number): "x"}) for number in range(8)]
    await asyncio.gather(*writes)
    assert len(fake.objects[KEY]["data"]) == 8


def test_one_that_comes_and_goes() -> None:
    """It is not there, is made by another, and is deleted again: nothing was written, and that is said."""
    answers = iter([404, 409, 404])
    transport = httpx2.MockTransport(lambda request: httpx2.Response(next(answers), json={}))
    with httpx2.Client(transport=transport, base_url="http://cluster") as client:
        objects = SharedObjects(client, "mesh")
        with pytest.raises(Changed, match="made and deleted all the time"):
            objects.write("configmaps", NAME, {"a": "1"})
    assert next(answers, None) is None


async def test_calls_that_fail(objects: SharedObjects, fake: FakeApiServer) -> None:
    fake.status = 403
    with pytest.raises(StoreError, match=r"mesh/records cannot be read: .* this control plane may not get it"):
        await in_thread(objects.read, "configmaps", NAME)
    with pytest.raises(StoreError, match=r"the Secret mesh/records cannot be written: .* may not patch it"):
        await in_thread(objects.write, "secrets", NAME, {"a": "1"})
    fake.status = 503
    with pytest.raises(Unreachable, match="answered 503"):
        await in_thread(objects.read, "configmaps", NAME)
    await fake.stop()
    with pytest.raises(Unreachable, match=r"no answer from http://127\.0\.0\.1:\d+ \(ConnectError: "):
        await in_thread(objects.read, "configmaps", NAME)
    await fake.start()


def test_an_object_that_is_full() -> None:
    """As the API server says it (tests/e2e has a real one)."""
    message = 'ConfigMap "records" is invalid: []: Too long: may not be more than 1048576 bytes'
    transport = httpx2.MockTransport(lambda request: httpx2.Response(422, json={"message": message}))
    with httpx2.Client(transport=transport, base_url="http://cluster") as client:
        objects = SharedObjects(client, "mesh")
        for version in (None, Version("1")):
            with pytest.raises(Full, match="the ConfigMap mesh/records is full: an object takes 1 MiB"):
                objects.write("configmaps", NAME, {"a": "1"}, version)
