"""Reports of sidecars, without sockets: whose they are, receipts, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.grpc import frame
from meshproxy.control import reporting as module
from meshproxy.control.entitlements import Entitlements
from meshproxy.control.reporting import EVERY, LONGEST, ReportService
from meshproxy.control_api import REPORT, MeshReport, ReportReceipt
from meshproxy.refusal import GrpcStatus
from meshproxy.transport.grpc_server import CallFailed
from meshproxy.view.reporters import ReportState
from tests.control.test_distribution import NOW, FakeCall, workload
from tests.control.test_entitlements import MESH, held, server
from tests.view.meshes import calls, report

SERVER = "spiffe://m.example/ns/a/sa/b"


class Call(FakeCall):
    """Keeps receipts."""

    def __init__(self, name: str = "b") -> None:
        super().__init__(workload(name=name))
        self.receipts: list[ReportReceipt] = []

    def post(self, framed: bytes) -> None:
        while framed:
            size = int.from_bytes(framed[1:5], "big")
            self.receipts.append(msgspec.json.decode(framed[5 : 5 + size], type=ReportReceipt))
            framed = framed[5 + size :]

    def tell(self, *messages: MeshReport | bytes) -> None:
        for message in messages:
            self.messages.append(message if isinstance(message, bytes) else msgspec.json.encode(message))
        self.wake()


@asynccontextmanager
async def reporting(service: ReportService, call: Call) -> AsyncIterator[asyncio.Future[None]]:
    task: asyncio.Future[None] = asyncio.ensure_future(service.methods[REPORT](call))  # type: ignore[arg-type]
    yield task
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_report_counts_under_the_identity_of_its_connection() -> None:
    service, call = ReportService(lambda: NOW), Call()
    async with reporting(service, call):
        call.tell(report(calls(count=7), sequence=4))
        await settled()
    (edge,) = service.mesh.ring.window(60.0, NOW).tallies
    assert edge.reporter == SERVER
    assert call.receipts == [ReportReceipt("a", 4, EVERY)]


async def test_inbound_calls_are_those_of_model_servers() -> None:
    """A client cannot say that others have called it."""
    documents = held(MESH, server("local"))
    service, call = ReportService(lambda: NOW, Entitlements(documents)), Call()
    async with reporting(service, call):
        call.tell(report(calls(count=7), calls(direction="outbound", count=2)), report(calls(count=7), sequence=1))
        await settled()
    (edge,) = service.mesh.ring.window(60.0, NOW).tallies
    assert (edge.direction, edge.caller.workload) == ("outbound", SERVER)
    assert dict(service.count_dropped())[("no-server",)] == 7, "also of a report that came twice"
    assert len(service.mesh.denials) == 0
    assert service.page(60.0).reports.problems() == ["7 calls are not shown where they belong (no-server)"]


async def test_reports_wait_until_it_is_known_who_is_a_model_server() -> None:
    service, call = ReportService(lambda: NOW, Entitlements({})), Call()
    async with reporting(service, call) as task:
        call.tell(report(calls(count=7)))
        await settled()
        with pytest.raises(CallFailed, match="not known yet") as failed:
            task.result()
    assert failed.value.status is GrpcStatus.UNAVAILABLE
    assert call.receipts == []


async def test_the_end_of_a_stream_says_that_it_stops_and_a_loss_does_not() -> None:
    service, gone, stopped = ReportService(lambda: NOW), Call("gone"), Call("stopped")
    async with reporting(service, gone), reporting(service, stopped) as task:
        gone.tell(report())
        stopped.tell(report())
        await settled()
        stopped.has_ended = True
        stopped.wake()
        await task
    states = {key.spiffe_id[-4:]: each.state(NOW) for key, each in service.mesh.reporters.known.items()}
    assert states == {"gone": ReportState.FRESH, "pped": ReportState.STOPPED}


async def test_receipts_wait_until_the_sidecar_reads() -> None:
    service, call = ReportService(lambda: NOW), Call()
    call.is_drained = False
    async with reporting(service, call):
        call.tell(report(sequence=1), report(sequence=2), report(sequence=1, run="other"))
        await settled()
        assert call.receipts == []
        call.is_drained = True
        call.wake()
        await settled()
    assert [(each.run, each.sequence) for each in call.receipts] == [("a", 2), ("other", 1)]


async def test_without_a_certificate_there_is_nobody_to_count_for() -> None:
    with pytest.raises(CallFailed, match="certificate"):
        await ReportService().report(FakeCall(None))  # type: ignore[arg-type]


async def test_a_report_that_cannot_be_used_is_counted_and_receipted() -> None:
    service, call = ReportService(lambda: NOW), Call()
    async with reporting(service, call):
        call.tell(b'{"run": "a", "sequence": 3, "seconds": -1}')
        await settled()
    assert call.receipts == [ReportReceipt("a", 3, EVERY)]
    assert dict(service.count_reports())[("malformed",)] == 1
    (problem,) = service.page(60.0).reports.problems()
    assert problem.startswith("1 reports could not be read")
    async with reporting(service, call) as task:
        call.tell(b'{"what": 1}')
        await settled()
        with pytest.raises(CallFailed):
            task.result()


@pytest.mark.parametrize("kind", ["workers", "runs", "runs that cannot be used"])
async def test_too_many_processes_on_one_stream(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PROCESSES", 3)
    service, call = ReportService(lambda: NOW), Call()
    call.is_drained = False  # it reads no receipts
    sent: list[MeshReport | bytes] = [report(worker=number) for number in range(4)]
    if kind != "workers":
        sent = [report(run=str(number)) for number in range(4)]
    if kind == "runs that cannot be used":
        sent = [msgspec.json.encode(each).replace(b'"seconds":5.0', b'"seconds":-1') for each in sent]
    async with reporting(service, call) as task:
        call.tell(*sent[:3])
        await settled()
        assert not task.done()
        call.tell(sent[3])
        await settled()
        with pytest.raises(CallFailed, match="processes on one stream"):
            task.result()


async def test_too_many_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPORT_BURST", 3.0)
    service, call = ReportService(lambda: NOW), Call()
    async with reporting(service, call) as task:
        call.tell(*(report(sequence=number) for number in range(1, 5)))
        await settled()
        with pytest.raises(CallFailed, match="too many"):
            task.result()


@pytest.mark.parametrize(("streams", "every"), [(1, EVERY), (5_000, EVERY), (10_000, 10.0), (100_000, LONGEST)])
def test_many_sidecars_report_less_often(streams: int, every: float) -> None:
    service = ReportService()
    service.streams = dict.fromkeys(range(streams))  # type: ignore[arg-type]
    assert service.every == every


async def test_a_report_that_is_nested_without_end() -> None:
    service, call = ReportService(lambda: NOW), Call()
    async with reporting(service, call) as task:
        call.tell(b'{"run":"a","sequence":1,"x":' + b"[" * 50_000)
        await settled()
        with pytest.raises(CallFailed) as failed:
            task.result()
        assert failed.value.status is GrpcStatus.INVALID_ARGUMENT


def test_metrics() -> None:
    service = ReportService(lambda: NOW)
    service.mesh.take(SERVER, report(), EVERY, NOW - 20.0)
    assert dict(service.count_reporters()) == {("fresh",): 0, ("late",): 1, ("silent",): 0, ("stopped",): 0}
    assert dict(service.count_reports())[("taken",)] == 1
    assert dict(service.count_dropped()) == dict.fromkeys(
        [("folded",), ("forgotten",), ("too-old",), ("no-server",)], 0
    )


@settings(max_examples=40)
@given(st.binary(max_size=200) | st.from_type(dict[str, int]).map(msgspec.json.encode))
def test_no_message_gets_past_the_codec(message: bytes) -> None:
    async def take() -> None:
        service, call = ReportService(lambda: NOW), Call()
        async with reporting(service, call) as task:
            call.tell(message)
            await settled()
            if task.done():
                assert isinstance(task.exception(), CallFailed)

    asyncio.run(take())
    assert frame(message)


def test_a_model_that_changes_is_logged_shown_and_found(caplog: pytest.LogCaptureFixture) -> None:
    """Readings of five minutes: three hours, then every tenth call fails."""
    now = NOW
    service = ReportService(lambda: now)
    for number in range(1, 61):
        now += 300
        row = calls(count=400, failed=40 if number > 44 else 0)
        service.mesh.take(SERVER, report(row, sequence=number), EVERY, now)
        if number == 44:
            assert dict(service.drift_alarms()) == dict.fromkeys(
                [("inbound", "fraud", "3", signal) for signal in ("errors", "upstream", "proxy")], 0
            )
            assert service.findings([]).changed_models == ()
    labels = ("inbound", "fraud", "3", "errors")
    assert dict(service.drift_alarms())[labels] == 1
    assert dict(service.drift_levels())[labels] == 0.1
    assert dict(service.drift_expected())[labels] == 0
    assert list(service.count_unwatched()) == [((), 0)]
    [change] = service.findings([]).changed_models
    assert change.words == "version 3, at its servers: 10.00% of the calls fail, 0.00% before"
    [line] = [each for each in caplog.records if each.message == "a model has changed"]
    assert line.levelname == "WARNING"
    assert line.__dict__["fields"]["signal"] == "errors"
