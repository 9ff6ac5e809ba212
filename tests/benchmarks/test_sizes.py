"""The largest request that a peer forwards, and what is said where it forwards none."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.works import sizes
from benchmarks.works.sizes import SIZES, SizesWork
from benchmarks.works.work import Failed, Figures, Pace, Traffic

MIB = 2**20


class Process:
    """Remembers whether its peak was asked for since it was reset."""

    def __init__(self) -> None:
        self.peak = 0

    def reset_peak(self) -> None:
        self.peak = 0

    def peak_rss(self) -> int:
        return self.peak


async def measured(monkeypatch: pytest.MonkeyPatch, bound: int) -> Figures:
    """The figures of a peer that refuses what is larger than `bound` bytes, and needs twice the size of a body."""
    process = Process()

    class Load:
        def __init__(self, context: Any, running: Any, traffic: Traffic) -> None:
            self.size = traffic.size
            self.driver, self.slots = self, ()

        async def __aenter__(self) -> Load:
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def run_closed(self, slots: object, seconds: float, *, at_most: int) -> Any:
            assert at_most == 1
            process.peak = max(process.peak, 2 * self.size)
            is_refused = self.size > bound
            return SimpleNamespace(done=not is_refused, errors=Counter(["too large"] if is_refused else []))

    monkeypatch.setattr(sizes, "Load", Load)
    nothing: Any = None
    running: Any = SimpleNamespace(child=process)
    return await SizesWork("sizes-grpc", Traffic("grpc"), ()).measure(nothing, nothing, running, Pace())


async def test_the_last_size_before_the_one_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = await measured(monkeypatch, 16 * MIB)
    assert figures["largest_mib"] == 16
    assert figures["peak_rss_mb"] == pytest.approx(2 * 16 * MIB / 1e6, rel=1e-4)


async def test_the_largest_of_all_where_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await measured(monkeypatch, 2**40))["largest_mib"] == SIZES[-1] / MIB == 64


async def test_a_peer_that_refuses_the_smallest_has_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failed, match="too large"):
        await measured(monkeypatch, 1_000)
