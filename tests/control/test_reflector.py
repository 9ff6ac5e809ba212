"""A copy of the objects in the API server."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.control import reflector as module
from meshproxy.control.cluster import connect
from meshproxy.control.reflector import ObjectCopies, Reflector, TooManyObjects
from tests.control.conftest import FakeServer
from tests.control.fake_api_server import FakeApiServer
from tests.control.following import Following, FollowingTests, Widget, following
from tests.processes.waiting import until

A, B = ("models", "a"), ("models", "b")
PATH = "/apis/tests.example/v1/namespaces/models/widgets"


class TestAgainstTheFake(FollowingTests):
    async def test_streams_that_end_all_the_time(self, server: FakeServer) -> None:
        await self.create(server, a=1)
        async with following(server) as it:
            await it.become(a=1)
            for size in range(2, 5):
                await until(lambda: server.fake.watching)
                server.fake.end_watches()
                await self.create(server, **{f"a{size}": size})
            await it.become(a=1, a2=2, a3=3, a4=4)
            assert it.restarts("ended") == 3

    async def test_events_that_come_twice_late_or_in_disorder(self, server: FakeServer) -> None:
        await self.create(server, a=1, b=2)
        old = deepcopy(server.fake.objects[(PATH, *A)])
        async with following(server) as it:
            await it.become(a=1, b=2)
            await server.client.delete(Widget, "a", namespace="models")
            await it.become(b=2)
            await until(lambda: server.fake.watching)
            server.fake.emit("ADDED", (PATH, *A), old)
            server.fake.emit("MODIFIED", (PATH, *A), old)
            server.fake.emit("DELETED", (PATH, *B), {**old, "metadata": {**old["metadata"], "name": "b"}})
            await self.create(server, c=3)
            await it.become(b=2, c=3)
            assert it.restarts("ended") == it.restarts("malformed") == 0

    async def test_what_is_no_event(self, server: FakeServer) -> None:
        await self.create(server, a=1)
        async with following(server) as it:
            await it.become(a=1)
            await until(lambda: server.fake.watching)
            server.fake.emit("MODIFIED", (PATH, *A), {"metadata": {"name": "a"}})
            await until(lambda: it.restarts("malformed"))
            assert it.values == {"a": 1}

    async def test_a_restored_backup(self, server: FakeServer) -> None:
        await self.create(server, a=1, b=2)
        async with following(server) as it:
            await it.become(a=1, b=2)
            await until(lambda: server.fake.watching)
            server.fake.restore(500)
            await self.create(server, b=7)
            server.fake.end_watches()
            await it.become(b=7)


events = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.booleans()), max_size=20)


@given(events)
def test_the_newest_event_counts_whatever_the_order(happened: list[tuple[str, int, bool]]) -> None:
    copies: ObjectCopies[int] = ObjectCopies()
    newest: dict[str, tuple[int, bool]] = {}
    for name, version, is_deleted in happened:
        before = dict(copies.values)
        is_different = copies.take(("models", name), version, None if is_deleted else version)
        assert is_different == (copies.values != before)
        if version > newest.get(name, (-1, False))[0]:
            newest[name] = version, is_deleted
    assert copies.values == {("models", name): v for name, (v, is_deleted) in newest.items() if not is_deleted}


def test_a_list_replaces_everything() -> None:
    copies: ObjectCopies[str] = ObjectCopies()
    assert copies.replace({A: (5, "a"), B: (6, "b")}) == {A, B}
    assert copies.replace({A: (7, "a"), B: (8, "b")}) == set()
    assert not copies.take(A, 7, "older")
    assert copies.replace({A: (2, "from before")}) == {A, B}
    assert copies.take(A, 3, "newer")  # a restored backup counts from further back
    assert copies.values == {A: "newer"}


def test_what_was_deleted_is_not_remembered_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OBJECTS", 3)
    copies: ObjectCopies[int] = ObjectCopies()
    for version in range(100):
        copies.take(("models", f"gone-{version}"), version, None)
        assert len(copies._versions) <= 6
    for version in range(3):
        copies.take(("models", str(version)), 100, version)
    with pytest.raises(TooManyObjects):
        copies.take(A, 101, 1)
    assert copies.take(("models", "0"), 101, 7)


def test_no_more_bytes_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES", 10)
    copies: ObjectCopies[str] = ObjectCopies(len)
    assert copies.take(A, 1, "1234567")
    assert copies.take(B, 1, "123")
    with pytest.raises(TooManyObjects):
        copies.take(B, 2, "1234")
    assert copies.take(A, 2, "1")
    assert copies.take(B, 3, "123456789")
    assert copies.take(A, 3, None)
    assert copies.take(A, 4, "1")


def test_what_is_equal_stays_the_same_value() -> None:
    copies: ObjectCopies[list[int]] = ObjectCopies()
    first = [1]
    copies.replace({A: (1, first)})
    assert copies.replace({A: (2, [1])}) == set()
    assert not copies.take(A, 3, [1])
    assert copies.values[A] is first


async def test_the_pauses_while_the_api_server_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 12:
            raise asyncio.CancelledError

    async def fail(self: Reflector[int]) -> tuple[str, str]:
        return "unavailable", "nobody is there"

    monkeypatch.setattr(Reflector, "_once", fail)
    monkeypatch.setattr(asyncio, "sleep", pause)
    kubeconfig = FakeApiServer(url="http://127.0.0.1:1").write_kubeconfig(tmp_path, "models")
    it = Following(connect(kubeconfig), "models")
    with pytest.raises(asyncio.CancelledError):
        await it.reflector.run()
    for place, seconds in enumerate(pauses, 1):
        most = min(0.2 * 2**place, 30.0)
        assert most / 2 <= seconds <= most
    assert len(set(pauses)) == 12
    assert it.restarts("unavailable") == 12
