"""Streams end with the certificates that they began with."""

from __future__ import annotations

from typing import Any

import pytest

from meshproxy.control import expiries as module
from meshproxy.control.expiries import Expiries
from meshproxy.refusal import GrpcStatus
from tests.control.test_distribution import NOW, FakeCall, workload
from tests.processes.waiting import until


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPACING", 0.001)


async def test_each_ends_in_its_time() -> None:
    expiries = Expiries()
    calls: list[Any] = [FakeCall(None) for _ in range(4)]
    for call, left in zip(calls, (60.0, 0.02, 0.01, -1.0), strict=True):
        expiries.add(call, workload(NOW + left), NOW)
    await until(lambda: all(call.failure for call in calls[1:]))
    assert calls[1].failure.status is GrpcStatus.UNAVAILABLE
    assert calls[0].failure is None


async def test_one_that_has_ended_is_forgotten() -> None:
    expiries = Expiries()
    first, second = FakeCall(None), FakeCall(None)
    kept: Any = second
    gone: Any = first
    expiries.add(gone, workload(NOW + 0.01), NOW)
    expiries.add(kept, workload(NOW + 0.02), NOW)
    expiries.discard(gone)
    expiries.discard(gone)
    await until(lambda: second.failure)
    assert first.failure is None
    assert expiries._timer is None
    expiries.add(gone, workload(NOW + 0.01), NOW)  # and it begins anew
    await until(lambda: first.failure)
