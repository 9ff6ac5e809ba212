"""Calls shown to the control plane: the real one in this process, over mTLS on loopback, and a page that is made up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from meshproxy.control.taps import LONGEST, Tap
from meshproxy.control_api import TapLines, TapOrder
from meshproxy.sidecar import control_taps as module
from meshproxy.sidecar import reconnect
from meshproxy.sidecar.control_taps import MESSAGE_BYTES, MOST_ORDERS, ControlTaps, PageRefused, read_page
from tests.processes.waiting import until
from tests.sidecar.test_control_reports import reporting
from tests.sidecar.test_enrollment import World
from tests.sidecar.test_enrollment import world as world  # a fixture
from tests.sidecar.test_report_queue import World as Calls


class Page:
    """`/tap` of an admin port: it says what it is told to, until the client leaves."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.left = 0
        self.address = ""
        self.refusal = b""

    @classmethod
    @asynccontextmanager
    async def serving(cls) -> AsyncIterator[Page]:
        it = cls()
        server = await asyncio.start_server(it._serve, "127.0.0.1", 0)
        it.address = "{}:{}".format(*server.sockets[0].getsockname())
        try:
            yield it
        finally:
            for writer in it.writers:
                writer.close()
            server.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode())
        if self.refusal:
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % len(self.refusal) + self.refusal)
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        self.writers.append(writer)
        await reader.read()
        self.left += 1
        writer.close()

    def say(self, *lines: object) -> None:
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        for writer in self.writers:
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "FIRST_RETRY", 0.01)


def told(tap: Tap, into: list[dict[str, Any]]) -> list[dict[str, Any]]:
    into += map(json.loads, tap.take().splitlines())
    return into


async def test_calls_go_to_whoever_asks_until_he_leaves(world: World) -> None:
    calls, process = Calls(), world.process
    async with Page.serving() as page, reporting(world, calls, page.address) as reports:
        await until(lambda: process.reports.streams)
        assert reports._taps is None, "nothing is loaded for nobody"
        tap = process.taps.open([("model", "res*")], [], rate=7, seconds=60.0)
        await until(lambda: page.writers)
        assert page.asked == ["/tap?model=res%2A&rate=7"]
        page.say({"model": "resnet"}, {"tap": {"shown": 1, "overRate": 4, "unread": 2}})
        found: list[dict[str, Any]] = []
        await until(lambda: len([each for each in told(tap, found) if "model" in each]) == 1)
        (line,) = (each for each in found if "model" in each)
        assert (line["model"], line["sidecar"]) == ("resnet", "spiffe://m.example/ns/models/sa/resnet")
        await until(lambda: told(tap, found)[-1].get("tap", {}).get("overRate") == 4)
        assert found[-1]["tap"]["sidecars"] == {"matched": 1, "asked": 1, "answered": 1}
        process.taps.close(tap)
        await until(lambda: page.left == 1)
        await until(lambda: not reports._taps or not reports._taps._running)
        # The next order is as the first.
        again = process.taps.open([], [])
        await until(lambda: len(page.writers) == 2)
    await until(lambda: page.left == 2)  # the sidecar has stopped
    process.taps.close(again)


async def test_why_a_sidecar_shows_nothing(world: World) -> None:
    async with Page.serving() as page, reporting(world, Calls(), page.address):
        page.refusal = b"spec.telemetry.tap of the MeshConfig is off\n"
        await until(lambda: world.process.reports.streams)
        tap = world.process.taps.open([], [])
        found: list[dict[str, Any]] = []
        await until(lambda: told(tap, found)[-1]["tap"]["problems"])
        assert found[-1]["tap"]["problems"] == ["models/resnet: spec.telemetry.tap of the MeshConfig is off"]


async def test_what_was_said_last_is_read_before_the_call_ends() -> None:
    said: list[str] = []

    class Said:
        """A call whose other end takes everything, and ends when this one does."""

        def __init__(self) -> None:
            self.end = asyncio.Event()

        async def send(self, message: bytes) -> None:
            said.append(msgspec.json.decode(message, type=TapLines).problem)

        async def done_sending(self) -> None:
            said.append("no more")
            asyncio.get_running_loop().call_soon(self.end.set)

        def __aiter__(self) -> Said:
            return self

        async def __anext__(self) -> bytes:
            await self.end.wait()
            said.append("ended by the other")
            raise StopAsyncIteration

    async with Page.serving() as page:
        page.refusal = b"it is off"
        taps = ControlTaps(None, lambda: {0: page.address})  # type: ignore[arg-type]
        await taps._show(TapOrder("i", "", 60.0), Said())  # type: ignore[arg-type]
    assert said == ["", "it is off", "no more", "ended by the other"]


async def test_orders_are_bounded() -> None:
    class Channel:
        address = "there"

        @asynccontextmanager
        async def streams(self) -> AsyncIterator[None]:
            await asyncio.Event().wait()
            yield None

    taps = ControlTaps(Channel(), dict)  # type: ignore[arg-type]
    for number in range(MOST_ORDERS + 1):
        for _ in "ab":
            taps.order(TapOrder(f"o{number}", "", LONGEST))
    assert list(taps._running) == [f"o{number}" for number in range(MOST_ORDERS)]
    await taps.stop()
    assert taps._running == {}
    taps.order(TapOrder("short", "", 0.0))
    await until(lambda: not taps._running)


def test_messages_are_what_a_control_plane_takes() -> None:
    line = msgspec.json.encode({"model": "m" * 1_000})
    parts = module._parts([line] * 200)
    assert sum(map(len, parts)) == 200
    assert all(len(msgspec.json.encode(part)) <= MESSAGE_BYTES + len(parts[0]) + 2 for part in parts)
    assert [len(part) for part in module._parts([b"{}"] * 501)] == [500, 1]
    assert module._parts([]) == []
    with pytest.raises(ValueError):
        module._parts([b"[]"])


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nfffffff\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n5\r\n{}",
        b"HTTP/1.1 404 Not Found\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\ncontent-length: 9\r\n\r\nno",
        b"x" * 70_000,
    ],
)
async def test_a_page_that_cannot_be_read(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        with pytest.raises((PageRefused, OSError, TimeoutError, asyncio.IncompleteReadError, ValueError)):
            async for _ in read_page("{}:{}".format(*server.sockets[0].getsockname()), "/tap"):
                pass
