"""What a reflector does, whoever the API server is: run against the fake one by `make test`, against a real one by
`make e2e`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import pytest
from lightkube import AsyncClient
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.meta_v1 import ObjectMeta

from meshproxy.control import reflector as module
from meshproxy.control.reflector import Key, Reflector
from meshproxy.telemetry.control_metrics import ControlMetrics
from tests.background import running
from tests.processes.waiting import until

Widget = create_namespaced_resource("tests.example", "v1", "Widget", "widgets")


class Server(Protocol):
    """An API server, and what can befall it."""

    client: AsyncClient
    namespace: str

    async def stop(self) -> None: ...

    async def start(self) -> None: ...

    async def forget_history(self) -> None:
        """A watch from an old version cannot be answered any more."""

    async def forbid(self) -> AsyncClient:
        """A client that may not read."""

    async def allow(self) -> None:
        """From now on it may."""


class Following:
    """Follows the widgets of a namespace, by what they have in `size`."""

    def __init__(self, client: AsyncClient, namespace: str, **labels: Sequence[str]) -> None:
        self.metrics = ControlMetrics()
        self.changed: list[set[str]] = []
        """The names that each change was said to be of."""
        self.reflector = Reflector(
            client, Widget, lambda shown: shown["size"], self.note, self.metrics, namespace, labels or None
        )

    def note(self, keys: Collection[Key]) -> None:
        self.changed.append({name for _, name in keys})

    @property
    def values(self) -> Mapping[str, int]:
        return {name: size for (_, name), size in self.reflector.values.items()}

    def restarts(self, reason: str) -> float:
        return self.metrics.watch_restarts.labels("Widget", reason).value

    async def become(self, **values: int) -> None:
        await until(lambda: self.values == values)


@asynccontextmanager
async def following(
    server: Server, client: AsyncClient | None = None, **labels: Sequence[str]
) -> AsyncIterator[Following]:
    """`labels`: of the widgets that are followed."""
    it = Following(client or server.client, server.namespace, **labels)
    async with running(it.reflector.run()):
        yield it


def widget(namespace: str, name: str, size: int, **labels: str) -> Any:
    return Widget(metadata=ObjectMeta(name=name, namespace=namespace, labels=labels), size=size)


class ReflectorTests:
    """Of whatever has reflectors: they do not wait long before they try again."""

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
        monkeypatch.setattr(module, "LAST_PAUSE", 0.1)


@pytest.mark.asyncio(loop_factories=["uvloop"])  # the control plane runs on no other
class FollowingTests(ReflectorTests):
    """Whoever inherits from this has the fixture `server`."""

    async def create(self, server: Server, **sizes: int) -> None:
        for name, size in sizes.items():
            await server.client.create(widget(server.namespace, name, size))

    async def test_objects_are_listed_and_followed(self, server: Server) -> None:
        await self.create(server, a=1)
        async with following(server) as it:
            await it.reflector.synced.wait()
            assert it.values == {"a": 1}
            await self.create(server, b=2)
            await it.become(a=1, b=2)
            await server.client.apply(widget(server.namespace, "a", 3), force=True)
            await it.become(a=3, b=2)
            await server.client.delete(Widget, "b", namespace=server.namespace)
            await it.become(a=3)
            assert it.changed == [{"a"}, {"b"}, {"a"}, {"b"}]
            assert it.metrics.cluster_contact.labels("Widget").value > 0

    async def test_a_list_of_several_pages(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "PAGE", 2)
        await self.create(server, a=1, b=2, c=3, d=4, e=5)
        async with following(server) as it:
            await it.become(a=1, b=2, c=3, d=4, e=5)
            assert it.changed == [{"a", "b", "c", "d", "e"}]

    async def test_only_those_with_a_label(self, server: Server) -> None:
        for name, team in (("a", "one"), ("b", "two"), ("c", "three")):
            await server.client.create(widget(server.namespace, name, 1, team=team))
        async with following(server, team=["one", "two"]) as it:
            await it.become(a=1, b=1)
            await server.client.apply(widget(server.namespace, "c", 2, team="three"), force=True)
            await server.client.apply(widget(server.namespace, "b", 2, team="two"), force=True)
            await it.become(a=1, b=2)
            assert it.changed == [{"a", "b"}, {"b"}]

    async def test_no_more_objects_than_the_limit(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "OBJECTS", 2)
        await self.create(server, a=1)
        async with following(server) as it:
            await it.become(a=1)
            await self.create(server, b=2, c=3)
            await until(lambda: it.restarts("limit") >= 2)
            assert it.metrics.limits_exceeded.labels("control", "objects").value >= 2
            assert it.values == {"a": 1, "b": 2}
            await server.client.delete(Widget, "b", namespace=server.namespace)
            await it.become(a=1, c=3)

    async def test_an_api_server_that_is_away(self, server: Server, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "meshproxy")
        await self.create(server, a=1, b=2)
        async with following(server) as it:
            await it.become(a=1, b=2)
            await server.stop()
            await until(lambda: it.restarts("unavailable") >= 3)
            assert it.values == {"a": 1, "b": 2}
            await server.start()
            await server.client.delete(Widget, "b", namespace=server.namespace)
            await self.create(server, c=3)
            await it.become(a=1, c=3)
        said = [record.message for record in caplog.records if record.name.startswith("meshproxy")]
        once = ["objects cannot be followed; those known are kept", "objects are followed again"]
        # The real one answers for a moment, and not again, before it has read the definitions of its kinds.
        assert said in (once, once * 2)

    async def test_a_version_that_expires_between_list_and_watch(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await self.create(server, a=1)
        await server.forget_history()
        listed = Reflector._list

        async def list_late(self: Reflector[Any]) -> str:
            version = await listed(self)
            return "1" if not self._metrics.watch_restarts.labels("Widget", "expired").value else version

        monkeypatch.setattr(Reflector, "_list", list_late)
        async with following(server) as it:
            await until(lambda: it.restarts("expired"))
            await server.client.delete(Widget, "a", namespace=server.namespace)
            await it.become()

    async def test_a_version_from_the_future_tells_nothing(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As after a restored backup of etcd: the watch hangs, until it is time for a list."""
        monkeypatch.setattr(module, "LIST_EVERY", 0.5)
        it = Following(server.client, server.namespace)
        assert await it.reflector._watch("9000000000") == "resync"

    async def test_whoever_may_not_read(self, server: Server, caplog: pytest.LogCaptureFixture) -> None:
        await self.create(server, a=1)
        client = await server.forbid()
        async with following(server, client) as it:
            await until(lambda: it.restarts("refused"))
            assert not it.reflector.synced.is_set()
            assert "403" in str(caplog.records[-1].__dict__["fields"]["problem"])
            await server.allow()
            await it.become(a=1)
        await client.close()

    async def test_text_with_line_breaks(self, server: Server) -> None:
        """Of which httpx2 knows more than JSON."""
        async with following(server) as it:
            await it.reflector.synced.wait()
            made = widget(server.namespace, "a", 1)
            made.metadata.annotations = {"note": "a\u0085b\u2028c\u2029d\x0b"}
            await server.client.create(made)
            await it.become(a=1)
            assert it.restarts("malformed") == 0
