from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from meshproxy.proxy.exchange import Exchange
from meshproxy.telemetry.observer import Observer, Sink
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange


class Broken:
    """A sink that fails."""

    def __call__(self, exchange: Exchange) -> None:
        raise KeyError("x")


def test_everyone_is_shown_the_exchange_once_in_order(make_exchange: MakeExchange) -> None:
    seen: list[tuple[int, Exchange]] = []
    metrics = SidecarMetrics()
    observer = Observer(
        metrics.telemetry_failures,
        [metrics.requests.observe, lambda e: seen.append((1, e)), lambda e: seen.append((2, e))],
    )
    exchange = make_exchange()
    observer(exchange)
    assert seen == [(1, exchange), (2, exchange)]
    assert sum(series.value for series in metrics.requests.total.series.values()) == 1


def test_a_sink_comes_and_goes(make_exchange: MakeExchange) -> None:
    seen: list[Exchange] = []
    observer = Observer(SidecarMetrics().telemetry_failures, [])
    observer(make_exchange())
    observer.add(seen.append)
    exchange = make_exchange()
    observer(exchange)
    observer.remove(seen.append)
    observer(make_exchange())
    assert seen == [exchange]


def test_a_sink_that_fails_is_counted_and_harms_nobody(
    make_exchange: MakeExchange, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    seen: list[Exchange] = []
    metrics = SidecarMetrics()

    def fails(exchange: Exchange) -> None:
        raise RuntimeError("sensor")

    observer = Observer(metrics.telemetry_failures, [Broken(), fails, seen.append], clock=lambda: now)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            observer(make_exchange())
        assert len(seen) == 5
        failures = {labels[0]: series.value for labels, series in metrics.telemetry_failures.series.items()}
        assert set(failures.values()) == {5}
        assert [name.rpartition(".")[2] for name in failures] == ["Broken", "fails"]
        # Said once each, with where it failed.
        assert len(caplog.records) == 2
        assert caplog.text.count("Traceback") == 2
        assert "sensor" in caplog.text
        now = 159.0
        observer(make_exchange())
        assert len(caplog.records) == 2
        now = 160.0
        observer(make_exchange())
        assert len(caplog.records) == 4


def test_a_metric_that_cannot_be_counted_breaks_nothing(
    make_exchange: MakeExchange, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = SidecarMetrics()
    Observer(metrics.telemetry_failures, [metrics.requests.observe])(make_exchange(finished="never"))
    assert metrics.telemetry_failures.labels("RequestMetrics.observe").value == 1
    assert "RequestMetrics.observe" in caplog.text


def test_a_guest_for_a_while(make_exchange: MakeExchange) -> None:
    seen: list[Exchange] = []
    others: list[Exchange] = []
    observer = Observer(SidecarMetrics().telemetry_failures, [others.append])
    first, second, third = make_exchange(), make_exchange(), make_exchange()
    observer(first)
    observer.admit(seen.append)
    observer(second)
    observer.dismiss(seen.append)
    observer(third)
    assert seen == [second]
    assert others == [first, second, third]


class Counting:
    """A sink that prepares for what repeats."""

    def __init__(self, *, is_idle: bool = False) -> None:
        self.is_idle = is_idle
        self.calls: list[str] = []

    def __call__(self, exchange: Exchange) -> None:
        self.calls.append("ordinary")

    def repeat(self, exchange: Exchange) -> Sink | None:
        self.calls.append("prepared")
        return None if self.is_idle else lambda repeated: self.calls.append("repeated")


def test_sinks_prepare_for_exchanges_that_repeat_one(make_exchange: MakeExchange) -> None:
    prepares, idle, seen = Counting(), Counting(is_idle=True), list[Exchange]()
    observer = Observer(SidecarMetrics().telemetry_failures, [prepares, idle, seen.append])
    exchange = make_exchange()
    repeated = observer.repeat(exchange)
    repeated(exchange)
    assert (prepares.calls, idle.calls, seen) == (["prepared", "repeated"], ["prepared"], [exchange])


def test_once_other_sinks_look_nothing_is_prepared_any_more(make_exchange: MakeExchange) -> None:
    prepares, late = Counting(), list[Exchange]()
    observer = Observer(SidecarMetrics().telemetry_failures, [prepares])
    exchange = make_exchange()
    repeated = observer.repeat(exchange)
    observer.add(late.append)
    repeated(exchange)
    assert (prepares.calls, late) == (["prepared", "ordinary"], [exchange])


def test_what_was_prepared_is_used_again_when_a_guest_has_left(make_exchange: MakeExchange) -> None:
    prepares, guest = Counting(), list[Exchange]()
    observer = Observer(SidecarMetrics().telemetry_failures, [prepares])
    exchange = make_exchange()
    before = observer.repeat(exchange)
    observer.admit(guest.append)
    meanwhile = observer.repeat(exchange)
    before(exchange)
    meanwhile(exchange)
    assert (prepares.calls, guest) == (["prepared", "prepared", "ordinary", "ordinary"], [exchange] * 2)
    observer.dismiss(guest.append)
    before(exchange)
    meanwhile(exchange)
    assert (prepares.calls[4:], len(guest)) == (["repeated", "repeated"], 2)


def test_a_prepared_sink_that_fails_is_counted_under_its_own_name(
    make_exchange: MakeExchange, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(exchange: Exchange) -> None:
        raise RuntimeError("sensor")

    class Failing(Counting):
        def repeat(self, exchange: Exchange) -> Sink:
            return fail

    metrics, seen = SidecarMetrics(), list[Exchange]()
    observer = Observer(metrics.telemetry_failures, [Failing(), seen.append])
    exchange = make_exchange()
    observer.repeat(exchange)(exchange)
    assert seen == [exchange]
    assert [series.labels for series in metrics.telemetry_failures.series.values() if series.value] == [("Failing",)]
