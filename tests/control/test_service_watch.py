"""Slices from an API server: a fake one here, a real one in tests/e2e."""

from __future__ import annotations

import msgspec
import pytest

from meshproxy.control.service_watch import by_namespace, read
from tests.control.conftest import FakeServer
from tests.control.watching_services import Slice, WatchingTests, a_slice, watching


class TestAgainstTheFake(WatchingTests):
    async def test_nothing_is_asked_for_while_nothing_is_named(self, server: FakeServer) -> None:
        async with watching(server.client, server.namespace) as it:
            it.name("a", "b")
            await it.write(a_slice("a-1", "a", "10.0.0.1"))
            await it.become("a", "10.0.0.1")
            asked = [request.query["labelSelector"] for request in server.fake.requests if request.method == "GET"]
            assert set(asked) == {"kubernetes.io/service-name in (a,b)"}
            it.name()
            await it.write(a_slice("a-1", "a", "10.0.0.2"))
            assert it.hosts("a") is None


def test_services_by_namespace() -> None:
    assert by_namespace([]) == {}
    assert by_namespace(["m/a", "n/a", "m/b"]) == {"m": {"a", "b"}, "n": {"a"}}


def test_slices_as_the_client_has_them() -> None:
    shown = Slice.from_dict({"metadata": {"name": "a", "namespace": "b"}, "endpoints": None})
    assert (read(shown).service, read(shown).endpoints) == (None, None)
    with pytest.raises(msgspec.ValidationError):
        read(Slice.from_dict({"metadata": {"name": "a", "namespace": "b"}, "endpoints": 1}))
