"""What is counted for which arm, what is not, and the fast kill."""

from __future__ import annotations

from typing import cast

import pytest

from meshproxy.config.rollouts import WarmUp
from meshproxy.inference.surface import Signals
from meshproxy.proxy.exchange import NO_FLAGS, Exchange, ResponseFlags
from meshproxy.refusal import Reason, Refusal
from meshproxy.rollout.analysis import FastKillSettings
from meshproxy.rollout.meter import Meter, kind_of
from meshproxy.rollout.window import BROKEN, ArmWindow, bucket, class_bin, score_bin

NO_WARM_UP = WarmUp(0, 0.0)


class Record:
    """The part of an exchange that is read."""

    def __init__(self, status: int = 200, grpc: int | None = None, seconds: float = 0.5) -> None:
        self.is_grpc = grpc is not None
        self.status, self.grpc_status = status, grpc
        self.flags = NO_FLAGS
        self.refusal: Refusal | None = None
        self.connected, self.first_byte = 10.0, 10.0 + seconds

    @property
    def real(self) -> Exchange:
        return cast("Exchange", self)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.spent = 0.0
        self.tripped: list[str] = []

    def meter(self, warm_up: WarmUp = NO_WARM_UP) -> Meter:
        return Meter(warm_up, FastKillSettings(), self.tripped.append, lambda: self.now, lambda: self.spent)


def with_refusal(reason: Reason, connected: float = 10.0) -> Record:
    record = Record(503)
    record.refusal, record.connected = Refusal(reason, "x"), connected
    return record


def with_flags(flags: ResponseFlags) -> Record:
    record = Record()
    record.flags = flags
    return record


@pytest.mark.parametrize(
    ("record", "is_whole", "kind"),
    [
        (Record(200), True, ""),
        (Record(200), False, BROKEN),
        (Record(503), True, "http 503"),
        (Record(400), True, "http 400"),
        (Record(0), False, None),
        (Record(200, 0), True, ""),
        (Record(200, 13), True, "grpc 13"),  # a failure with HTTP status 200
        (Record(200, 13), False, "grpc 13"),
        (with_flags(ResponseFlags.DC), False, None),
        (with_flags(ResponseFlags.UC), False, BROKEN),
        (with_refusal(Reason.CONNECT_FAILED), True, BROKEN),
        (with_refusal(Reason.UPSTREAM_TIMEOUT), True, BROKEN),
        (with_refusal(Reason.DEADLINE_EXCEEDED), True, BROKEN),
        (with_refusal(Reason.DEADLINE_EXCEEDED, 0.0), True, None),
        (with_refusal(Reason.RATE_LIMITED), True, None),
        (with_refusal(Reason.PERMISSION_DENIED), True, None),
    ],
)
def test_kinds(record: Record, is_whole: bool, kind: str | None) -> None:
    assert kind_of(record.real, is_whole) == kind


def test_a_window() -> None:
    clock = Clock()
    meter = clock.meter()
    meter.ended(Record(200).real, True, 4, 300, lambda: Signals(3, 0, 2, 0.75))
    meter.ended(Record(200, 13).real, False, 0, 0, None)
    meter.compared(agrees=False)
    stable, candidate = meter.take()
    assert stable == ArmWindow(calls=1, failures={"grpc 13": 1})
    assert candidate == ArmWindow(
        calls=1, latency={bucket(0.5): 1}, examples=4, latency_per_example={bucket(0.125): 1}, answers=1, values=3,
        classes={class_bin(2): 1}, scores={score_bin(0.75): 1}, sizes={bucket(300.0): 1}, shadows=1, disagreements=1,
    )  # fmt: skip
    assert meter.take() == (ArmWindow(), ArmWindow())


def test_warm_up() -> None:
    """The first calls, and those of the first seconds."""
    clock = Clock()
    meter = clock.meter(WarmUp(2, 5.0))
    for _ in range(4):
        meter.ended(Record(200).real, True, 0, 1, None)
    clock.now += 5.0
    meter.ended(Record(200).real, True, 0, 1, None)
    assert [window.calls for window in meter.take()] == [0, 1]


def ended(meter: Meter, *seconds: float) -> int:
    """How many of these calls were counted."""
    for each in seconds:
        meter.ended(Record(200, 0, each).real, True, 0, 1, None)
    return meter.take()[True].calls


def test_warm_up_goes_on_while_calls_become_faster() -> None:
    meter = Clock().meter(WarmUp(20, 0.0))
    becoming_faster = [0.5 / (1 + number) for number in range(40)]
    assert ended(meter, *becoming_faster) == 0
    # A half of the warm-up that is as slow as the one before.
    assert ended(meter, *[0.0125] * 10) == 0
    assert ended(meter, 0.0125, 0.0125) == 2


def test_what_does_not_settle_is_how_it_is() -> None:
    meter = Clock().meter(WarmUp(20, 0.0))
    assert ended(meter, *[1.05**-number for number in range(200)]) == 0
    assert ended(meter, 1e-5) == 1


@pytest.mark.parametrize("calls", [9, 20])
def test_what_is_settled_waits_for_nothing(calls: int) -> None:
    meter = Clock().meter(WarmUp(calls, 0.0))
    assert ended(meter, *[0.02, 0.03] * 15) == 30 - calls


def test_reading_takes_a_twentieth_of_the_time() -> None:
    clock = Clock()
    meter = clock.meter()

    def read() -> None:
        clock.spent += 0.01

    assert meter.wants_answer(clock.now)
    meter.ended(Record(200).real, True, 0, 1, read)
    assert not meter.wants_answer(clock.now + 0.18)
    assert meter.wants_answer(clock.now + 0.2)


def test_a_burst_trips_once_also_in_the_warm_up() -> None:
    clock = Clock()
    meter = clock.meter(WarmUp(1_000, 60.0))
    for _ in range(20):
        meter.ended(Record(200, 14).real, True, 0, 0, None)
    assert clock.tripped == ["a burst of failures of the candidate, the last one: grpc 14"]


def test_what_callers_do_wrong_trips_nothing() -> None:
    clock = Clock()
    meter = clock.meter()
    for _ in range(100):
        meter.ended(Record(200, 3).real, True, 0, 0, None)
        meter.ended(with_refusal(Reason.RATE_LIMITED).real, True, 0, 0, None)
    assert clock.tripped == []


def test_where_both_fail_nothing_trips() -> None:
    clock = Clock()
    meter = clock.meter()
    for _ in range(200):
        meter.ended(Record(503).real, False, 0, 0, None)
    for _ in range(200):
        meter.ended(Record(503).real, True, 0, 0, None)
        meter.ended(Record(503).real, False, 0, 0, None)
    assert clock.tripped == []
