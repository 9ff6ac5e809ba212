"""Objects that several control planes write, of a real API server: what the made-up one of tests/control is held
against."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterator

import pytest

from meshproxy.control.attestation import make_token, redeem_token
from meshproxy.control.authority import RequestRefused
from meshproxy.control.cluster import connect_blocking
from meshproxy.control.shared_objects import MOST_BYTES, Full, SharedObjects, Version
from meshproxy.control.shared_tokens import SharedTokens
from meshproxy.control.store import Changed
from tests.e2e.conftest import TestNamespace

ID = "spiffe://m.example/ns/models/sa/resnet"
in_thread = asyncio.to_thread


@pytest.fixture
def clients(namespace: TestNamespace) -> Iterator[list[SharedObjects]]:
    """Of several processes."""
    kubeconfig = namespace.cluster.kubeconfig
    clients = [SharedObjects(connect_blocking(kubeconfig), namespace.name) for _ in range(4)]
    yield clients
    for each in clients:
        each.close()


async def test_what_is_read_and_written(clients: list[SharedObjects]) -> None:
    objects = clients[0]
    await in_thread(objects.write, "configmaps", "a", {"x": "1", "y": "2"}, Version(""))
    with pytest.raises(Changed):
        await in_thread(objects.write, "configmaps", "a", {"x": "3"}, Version(""))
    data, version = await in_thread(objects.read, "configmaps", "a")
    assert (data, version.size) == ({"x": "1", "y": "2"}, 2)
    assert abs(version.created - time.time()) < 60.0
    await in_thread(objects.write, "configmaps", "a", {"x": None}, version)
    with pytest.raises(Changed):
        await in_thread(objects.write, "configmaps", "a", {"y": None}, version)
    data, later = await in_thread(objects.read, "configmaps", "a")
    assert (data, later.created) == ({"y": "2"}, version.created)


@pytest.mark.parametrize("plural", ["configmaps", "secrets"])
async def test_an_object_that_is_full(clients: list[SharedObjects], plural: str) -> None:
    objects = clients[0]
    # The bytes of a Secret count, not their base64.
    most = base64.b64encode(bytes(MOST_BYTES)).decode() if plural == "secrets" else "x" * MOST_BYTES
    with pytest.raises(Full, match="is full: an object takes 1 MiB"):
        await in_thread(objects.write, plural, "a", {"a": most, "b": "eHh4"})
    await in_thread(objects.write, plural, "a", {"b": "eHh4"})
    for version in (None, (await in_thread(objects.read, plural, "a"))[1]):
        with pytest.raises(Full):
            await in_thread(objects.write, plural, "a", {"a": most}, version)
    assert (await in_thread(objects.read, plural, "a"))[0] == {"b": "eHh4"}


async def test_of_many_who_show_a_join_token_at_once_one_has_it(clients: list[SharedObjects]) -> None:
    shared = [SharedTokens(each, "authority") for each in clients]
    now = time.time()
    texts = [await in_thread(make_token, shared[0], ID, now, 60.0) for _ in range(4)]
    shown = [in_thread(redeem_token, each, text, now) for text in texts for each in shared]
    outcomes = await asyncio.gather(*shown, return_exceptions=True)
    assert outcomes.count(ID) == len(texts)
    assert all(each == ID or isinstance(each, RequestRefused) for each in outcomes)
    assert await in_thread(shared[0].waiting_tokens, now) == []
