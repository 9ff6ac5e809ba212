"""The reports of several workers, over HTTP as the supervisor asks for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from meshproxy.sidecar.worker_reports import WorkerReports, tell
from tests.sidecar.test_report_queue import World


@asynccontextmanager
async def serving(worlds: list[World]) -> AsyncIterator[str]:
    """A port on which the first world answers; whoever replaces it answers from then on."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(body=tell(worlds[0].queue, request.query_string.encode()))

    application = web.Application()
    application.router.add_get("/reports", page)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_receipts_reach_the_worker_with_the_next_question() -> None:
    worlds = [World()]
    async with serving(worlds) as address:
        reports = WorkerReports(lambda: {0: address})
        (first,) = await reports.pending()
        assert first.sequence == 1
        reports.acknowledge(first.run, 1)
        (second,) = await reports.pending()
        assert (second.sequence, second.acknowledged) == (2, 1)


async def test_a_worker_that_was_started_again() -> None:
    worlds = [World()]
    async with serving(worlds) as address:
        reports = WorkerReports(lambda: {0: address})
        (before,) = await reports.pending()
        reports.acknowledge(before.run, 1)
        worlds[0] = World()
        (after,) = await reports.pending()
        assert (after.sequence, after.run == before.run) == (1, False)
        reports.acknowledge(after.run, 1)
        assert [each.sequence for each in await reports.pending()] == [2]


async def test_a_worker_that_does_not_answer_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    worlds = [World()]
    async with serving(worlds) as address:
        reports = WorkerReports(lambda: {0: "127.0.0.1:1", 1: address})
        assert [each.sequence for each in await reports.pending()] == [1]
    assert "worker 0 does not tell its reports" in caplog.text


@pytest.mark.parametrize("query", [b"", b"x=", b"x=-1", b"=", b"\xff=3", b"x=" + b"9" * 30])
def test_any_query_gives_what_waits(query: bytes) -> None:
    assert tell(World().queue, query).startswith(b"[{")
