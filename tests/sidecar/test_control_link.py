"""The link as a whole; `test_control_documents` has it with documents."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from meshproxy.sidecar.control_link import ControlLink
from tests.sidecar.test_control_documents import World


async def test_without_documents_it_only_renews(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.settings = msgspec.structs.replace(world.settings, documents=False)
    link = world.link()
    assert link.documents is None
    assert await link.join() is None
    assert link.enrollment is not None
    assert link.enrollment.issued == 1
    assert link.connected() == [((), 0)]
    running = asyncio.create_task(link.run())
    async with asyncio.timeout(60):
        while link.connected() != [((), 1)]:  # the trust bundle is followed
            await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert world.process.distribution.watchers == {}
    world.process.listener.stop_accepting()
    await world.process.server.close()
    await world.process.listener.close()


async def test_a_part_that_ends_ends_the_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would go on with half of what it is for, unnoticed."""

    async def broken() -> None:
        raise RuntimeError("a defect")

    world = World(tmp_path)
    link: ControlLink = world.link()
    assert link.enrollment is not None
    monkeypatch.setattr(link.enrollment, "run", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        await link.run()
    await world.process.listener.close()
