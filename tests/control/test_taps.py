"""Taps of the mesh, without sockets: who is asked, whose lines are taken, and what bounds them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from meshproxy.control import taps as module
from meshproxy.control.reporting import ReportService, ReportStream
from meshproxy.control.taps import LONGEST, MOST_RATE, MOST_SIDECARS, MOST_TAPS, Tap, TapRefused, TapService
from meshproxy.control_api import TAP, TapLines
from meshproxy.refusal import GrpcStatus
from meshproxy.telemetry.control_metrics import ControlMetrics
from meshproxy.transport.grpc_server import CallFailed
from meshproxy.view.reporters import ReporterKey
from tests.control.test_distribution import NOW, FakeCall, workload
from tests.control.test_reporting import Call, reporting, settled


class World:
    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.reports = ReportService(lambda: NOW)
        self.metrics = ControlMetrics()
        self.service = TapService(self.reports, self.metrics, clock)

    def connect(self, name: str, host: str = "h") -> ReportStream:
        peer = workload(name=name)
        stream = ReportStream(FakeCall(peer), peer)  # type: ignore[arg-type]
        stream.keys += (ReporterKey(peer.spiffe_id, "doc", host, 0),)
        self.reports.streams[stream] = None
        return stream

    @asynccontextmanager
    async def showing(self, call: FakeCall) -> AsyncIterator[asyncio.Future[None]]:
        task: asyncio.Future[None] = asyncio.ensure_future(self.service.methods[TAP](call))  # type: ignore[arg-type]
        yield task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def lines(self) -> dict[str, float]:
        return {labels[0]: value for labels, value in self.service.count_lines()}


@pytest.fixture
async def world() -> World:
    return World()


def say(call: FakeCall, tap: Tap, *lines: Any, **more: Any) -> None:
    call.send(msgspec.json.encode(TapLines(more.pop("id", tap.id), lines=lines, **more)))


def read(tap: Tap) -> list[dict[str, Any]]:
    return [json.loads(line) for line in tap.take().splitlines()]


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        ([], "abc"),
        (["a/a"], "a"),
        (["spiffe://m.example/ns/a/sa/[ab]"], ""),  # globs have no sets
        (["spiffe://m.example/ns/*"], "abc"),
        (["host-b", "a/c"], "bc"),
        (["doc"], "abc"),
        (["other"], ""),
    ],
)
async def test_whom_it_asks(world: World, globs: list[str], expected: str) -> None:
    streams = {name: world.connect(name, f"host-{name}") for name in "abc"}
    tap = world.service.open([("model", "m")], globs)
    assert "".join(name for name, stream in streams.items() if stream.orders) == expected
    assert (tap.matched, tap.asked.total()) == (len(expected), len(expected))


async def test_it_asks_no_more_than_so_many(world: World) -> None:
    for number in range(MOST_SIDECARS + 3):
        world.connect(f"n{number}")
    tap = world.service.open([], [])
    assert (tap.matched, tap.asked.total()) == (MOST_SIDECARS + 3, MOST_SIDECARS)
    assert sum(len(stream.orders) for stream in world.reports.streams) == MOST_SIDECARS


async def test_an_order_goes_with_the_receipts() -> None:
    world, call = World(), Call()
    async with reporting(world.reports, call):
        await settled()
        tap = world.service.open([("model", "a b")], [], rate=5, seconds=60.0, hide_callers=True)
        await settled()
    (receipt,) = call.receipts
    assert (receipt.run, receipt.sequence) == ("", 0), "a sidecar of an earlier version reads over it"
    assert receipt.tap is not None
    assert (receipt.tap.id, receipt.tap.seconds) == (tap.id, 60.0)
    assert receipt.tap.query == "model=a+b&rate=5&identities=hidden"


async def test_lines_are_those_of_who_was_asked(world: World) -> None:
    world.connect("b")
    tap = world.service.open([], [])
    asked, again, stranger = FakeCall(workload()), FakeCall(workload()), FakeCall(workload(name="x"))
    async with world.showing(asked), world.showing(again) as second, world.showing(stranger) as other:
        say(asked, tap, {"model": "m", "sidecar": "spiffe://m.example/ns/a/sa/victim"})
        await settled()
        say(again, tap, {"model": "n"})
        say(stranger, tap, {"model": "n"}, {"model": "n"})
        await settled()
        for task in (second, other):
            with pytest.raises(CallFailed, match="nobody has asked") as failed:
                task.result()
            assert failed.value.status is GrpcStatus.NOT_FOUND
    line, counts = read(tap)
    assert line == {"model": "m", "sidecar": "spiffe://m.example/ns/a/sa/b", "sidecar_host": "10.0.0.1:1"}
    assert counts["tap"]["shown"] == 1
    assert world.lines() == {"shown": 1, "over-rate": 0, "unread": 0, "not-ordered": 3}


async def test_the_end_of_a_tap_ends_what_sidecars_show(world: World) -> None:
    world.connect("b")
    tap = world.service.open([], [])
    call = FakeCall(workload())
    async with world.showing(call) as task:
        say(call, tap)
        await settled()
        assert not task.done()
        world.service.close(tap)
        await asyncio.wait_for(asyncio.shield(task), 60)
    late = FakeCall(workload())
    async with world.showing(late) as task:
        say(late, tap, {"model": "m"})
        await settled()
        with pytest.raises(CallFailed):
            task.result()
    world.service.close(tap)  # as often as one likes
    assert dict(world.service.count_taps()) == {(): 0}


async def test_rate_and_reader_bound_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_LINES", 3)
    world.connect("b")
    tap = world.service.open([], [], rate=5)
    call = FakeCall(workload())
    async with world.showing(call):
        say(call, tap, *({"n": number} for number in range(4)))
        await settled()
        assert [line.get("n") for line in read(tap)] == [0, 1, 2, None]
        say(call, tap, *({"n": number} for number in range(3)), {"tap": {"overRate": 7, "unread": 5, "shown": 1}})
        await settled()
    counts = read(tap)[-1]["tap"]
    assert (counts["shown"], counts["overRate"], counts["unread"]) == (5, 8, 6)
    assert world.lines() == {"shown": 5, "over-rate": 1, "unread": 1, "not-ordered": 0}


async def test_what_it_tells_once(world: World) -> None:
    for name in "bc":
        world.connect(name)
    tap = world.service.open([], [])
    assert read(tap)[0]["tap"]["sidecars"] == {"matched": 2, "asked": 2, "answered": 0}
    assert read(tap) == []
    call = FakeCall(workload())
    async with world.showing(call):
        for _ in "ab":
            say(call, tap, {"tap": "what"}, {"tap": {"overRate": "x"}}, problem="it is off")
        await settled()
    (counts,) = read(tap)
    assert counts["tap"]["problems"] == ["a/b: it is off"]
    assert counts["tap"]["sidecars"]["answered"] == 1


DEEP = b'{"a":' * 50_000


@pytest.mark.parametrize("message", [b"{", b'{"id": 1}', b'{"id": "x", "lines": [1]}', DEEP])
async def test_what_is_no_message(world: World, message: bytes) -> None:
    call = FakeCall(workload())
    async with world.showing(call) as task:
        call.send(message)
        await settled()
        with pytest.raises(CallFailed):
            task.result()


async def test_a_stream_is_of_one_tap_and_of_a_workload(world: World) -> None:
    world.connect("b")
    tap, other = world.service.open([], []), world.service.open([], [])
    call = FakeCall(workload())
    async with world.showing(call) as task:
        say(call, tap)
        say(call, other)
        await settled()
        with pytest.raises(CallFailed, match="one tap"):
            task.result()
    with pytest.raises(CallFailed, match="certificate"):
        await world.service.take(FakeCall(None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "globs", "more", "message"),
    [
        ([("modle", "a")], [], {}, "model"),
        ([], [], {"rate": MOST_RATE + 1}, "a rate of 1 to"),
        ([], [], {"rate": 0}, "a rate of 1 to"),
        ([], [], {"seconds": LONGEST + 1}, "seconds"),
        ([], [], {"seconds": float("nan")}, "seconds"),
        ([("model", "é" * 200)] * 4, [], {}, "longer than 2048"),
        ([], ["x"] * 17, {}, "at most 16"),
        ([], ["*" * 9], {}, "few stars"),
        ([], ["x" * 257], {}, "few stars"),
    ],
)
async def test_what_is_not_begun(
    world: World, fields: list[tuple[str, str]], globs: list[str], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(TapRefused, match=message) as refused:
        world.service.open(fields, globs, **more)
    assert not refused.value.is_busy
    assert dict(world.service.count_taps()) == {(): 0}


async def test_so_many_taps_at_once(world: World) -> None:
    taps = [world.service.open([], []) for _ in range(MOST_TAPS)]
    with pytest.raises(TapRefused, match="end one of them") as refused:
        world.service.open([], [])
    assert refused.value.is_busy
    assert world.metrics.limits_exceeded.labels("control", "taps").value == 1
    world.service.close(taps[0])
    world.service.open([], [])


async def test_bytes_that_wait_for_the_reader_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_BYTES", 2_000)
    world.connect("b")
    tap = world.service.open([], [])
    call = FakeCall(workload())
    async with world.showing(call):
        for _ in "ab":  # what was read makes room
            say(call, tap, *[{"path": "x" * 1_000}] * 5)
            await settled()
            assert len([line for line in read(tap) if "path" in line]) == 2
    assert world.lines() == {"shown": 4, "over-rate": 0, "unread": 6, "not-ordered": 0}


async def test_a_control_plane_that_stops_ends_all(world: World) -> None:
    world.connect("b")
    taps = [world.service.open([], []) for _ in "ab"]
    call = FakeCall(workload())
    async with world.showing(call) as task:
        say(call, taps[0])
        await settled()
        world.service.stop()
        await asyncio.wait_for(asyncio.shield(task), 60)
    assert all(tap.is_closed and tap.woken.is_set() for tap in taps)
    assert dict(world.service.count_taps()) == {(): 0}
