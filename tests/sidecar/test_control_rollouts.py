"""Reports to a control plane and weights from it, over HTTP/2 on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from meshproxy.control.app import MESSAGE_BYTES
from meshproxy.control.rollout_service import RolloutService
from meshproxy.rollout.link import Kill, ReportedRollout, RolloutsReport
from meshproxy.rollout.window import ArmWindow
from meshproxy.sidecar.control_rollouts import REPORT_BYTES, ControlRollouts
from meshproxy.telemetry.control_metrics import ControlMetrics
from meshproxy.transport.channel import H2Channel, Target
from meshproxy.transport.client import ClientError, ClientFailure
from tests.control.test_distribution import NOW, workload
from tests.processes.waiting import until
from tests.rollout.test_meter import Record
from tests.sidecar.test_rollouts import REVISION, Sidecar, state
from tests.transport.test_grpc_server import Port


class Control(Port):
    """The rollouts of a control plane, on a port, and the way there (`control_channel.ControlChannel`)."""

    def __init__(self) -> None:
        peer = workload()
        watcher = SimpleNamespace(spiffe_id=peer.spiffe_id, group=SimpleNamespace(keys={"ModelRollout/r"}))
        entitlements = SimpleNamespace(may_report=lambda workload, rollout: True)
        distribution: Any = SimpleNamespace(watchers={1: watcher}, entitlements=entitlements)
        self.service = RolloutService(distribution, ControlMetrics(), lambda: NOW)
        self.kills: list[Kill] = []
        self.service.on_kill = self.kills.append
        super().__init__(self.service.methods, peer)
        self.address = self.listener.address
        self.open_calls = 0

    def streams(self) -> H2Channel:
        return H2Channel(self.shared, Target(self.address), connect_timeout=5.0)


@pytest.fixture
async def control() -> AsyncIterator[Control]:
    made = Control()
    yield made
    await made.close()


async def test_weights_come_and_reports_go(control: Control, tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path)
    control.service.publish([state(30.0)])
    channel: Any = control
    following = asyncio.create_task(ControlRollouts("s", sidecar.rollouts, channel).run())
    try:
        await until(lambda: sidecar.split.weight == 30.0)
        for _ in range(3):
            sidecar.rollouts.meters["r"].ended(Record(200).real, False, 0, 5, None)
        sidecar.fail()
        await until(lambda: control.kills != [])
        merged = control.service.collect("r", REVISION)
        assert (merged.stable.calls, merged.candidate.calls, merged.sidecars) == (3, 7, 1)
        assert sidecar.split.weight == 0.0
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


class Lost:
    """A call that takes a last message, and is lost before it says so."""

    def __init__(self, takes: int = 2) -> None:
        self.takes = takes
        self.sent: list[bytes] = []

    async def send(self, message: bytes) -> None:
        self.sent.append(message)
        if len(self.sent) == self.takes:
            raise ClientError(ClientFailure.RESET, "the connection is lost")


async def test_what_may_have_arrived_is_not_sent_again(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path)
    sidecar.rollouts.take([state(30.0)])
    sidecar.rollouts.meters["r"].ended(Record(200).real, False, 0, 5, None)
    channel: Any = None
    call: Any = Lost()
    with pytest.raises(ClientError):
        await ControlRollouts("s", sidecar.rollouts, channel)._report(call)
    assert b'"calls":1' in call.sent[1]
    assert sidecar.rollouts.reports() == []


async def test_many_rollouts_take_few_messages_and_what_is_too_large_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The control plane takes twenty a second of a sidecar, each of 64 KiB."""
    assert REPORT_BYTES < MESSAGE_BYTES
    window = ArmWindow(10_000, latency=dict.fromkeys(range(2_000), 1))
    reports = [ReportedRollout(f"r{number}", "1", stable=window) for number in range(5)]
    large = ArmWindow(10_000, latency=dict.fromkeys(range(3_000), 1), sizes=dict.fromkeys(range(3_000), 1))
    many = [*reports[:2], ReportedRollout("large", "1", stable=large, candidate=large), *reports[2:]]
    rollouts: Any = SimpleNamespace(has_news=asyncio.Event(), period=5.0, reports=lambda: many)
    channel: Any = None
    call: Any = Lost(3)
    with pytest.raises(ClientError):
        await ControlRollouts("s", rollouts, channel)._report(call)
    sent = [msgspec.json.decode(message, type=RolloutsReport) for message in call.sent]
    assert all(len(message) <= REPORT_BYTES for message in call.sent)
    assert [report for each in sent for report in each.rollouts] == reports
    assert [record.__dict__["fields"]["rollout"] for record in caplog.records] == ["large"]
