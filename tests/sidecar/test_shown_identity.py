"""The identity that is shown to a control plane which has not issued it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.certificates import CertificateError, Credentials
from meshproxy.sidecar.shown_identity import ShownIdentity

CA = DevelopmentCA.create("m.example")
ID = "spiffe://m.example/ns/a/sa/b"


class FakeSource:
    """Delivers what it was given last (`IdentitySource`)."""

    def __init__(self) -> None:
        self.credentials: Credentials | None = None
        self.loads = 0
        self._changed: Callable[[], None] = lambda: None
        self.is_followed = False

    def give(self, certificate: bytes | None) -> None:
        self.credentials = Credentials(certificate, b"", CA.bundle_pem) if certificate is not None else None
        self._changed()

    async def load(self) -> Credentials:
        self.loads += 1
        if self.credentials is None:
            raise CertificateError("unreadable", "the agent is away")
        return self.credentials

    def start(self, changed: Callable[[], None]) -> None:
        self._changed, self.is_followed = changed, True

    def stop(self) -> None:
        self.is_followed = False


class World:
    def __init__(self) -> None:
        self.offset = 0.0
        self.source = FakeSource()
        self.shown = ShownIdentity(self.source, lambda: time.time() + self.offset)
        self.changes: list[float] = []
        self.shown.changed = lambda issued, expires: self.changes.append(expires)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.shown.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def loaded(self) -> None:
        """What the source has now is looked at."""
        before = self.source.loads
        self.source._changed()
        async with asyncio.timeout(60):
            while self.source.loads == before:
                await asyncio.sleep(0)


@pytest.fixture
def world() -> World:
    return World()


async def test_it_waits_for_the_first_one(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with world.running():
        await world.loaded()
        assert world.shown() is None
        waiting = asyncio.create_task(world.shown.wait())
        first = CA.issue(ID)
        world.source.give(first.certificate_pem)
        async with asyncio.timeout(60):
            await waiting
        shown = world.shown()
        assert shown is not None
        assert shown.certificate_pem == first.certificate_pem
    assert not world.source.is_followed
    assert [record.__dict__["fields"]["problem"] for record in caplog.records] == ["the agent is away"]


async def test_what_cannot_be_used_changes_nothing(world: World) -> None:
    first, second = CA.issue(ID), CA.issue(ID)
    world.source.give(first.certificate_pem)
    async with world.running():
        await world.shown.wait()
        await world.loaded()  # the same again
        for bad in (None, b"nothing", CA.bundle_pem):
            world.source.give(bad)
            await world.loaded()
            shown = world.shown()
            assert shown is not None
            assert shown.certificate_pem == first.certificate_pem
        world.source.give(second.certificate_pem)
        await world.loaded()
        assert len(world.changes) == 2
        world.offset = 2 * 86_400.0
        assert world.shown() is None  # expired
