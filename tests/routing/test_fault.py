"""Faults on purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshproxy.config.routes import Abort, Delay, Fault
from meshproxy.refusal import GrpcStatus
from meshproxy.routing.fault import FaultRule


def drawing(*numbers: float) -> Callable[[], float]:
    left = iter(numbers)
    return lambda: next(left)


BOTH = FaultRule(
    Fault(
        delay=Delay(percent=10.0, duration=0.5),
        abort=Abort(percent=25.0, http_status=429, grpc_status="RESOURCE_EXHAUSTED"),
    )
)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0.0, 0.0), (0.5, True)),
        ((0.0999, 0.25), (0.5, False)),
        ((0.1, 0.2499), (0.0, True)),
        ((0.999, 0.999), (0.0, False)),
    ],
)
def test_delay_and_abort_are_chosen_for_themselves(numbers: tuple[float, float], expected: tuple[float, bool]) -> None:
    assert BOTH.decide(drawing(*numbers)) == expected
    assert (BOTH.http_status, BOTH.grpc_status) == (429, GrpcStatus.RESOURCE_EXHAUSTED)


def test_one_without_the_other() -> None:
    delay = FaultRule(Fault(delay=Delay(percent=100.0, duration=1.0)))
    abort = FaultRule(Fault(abort=Abort(percent=100.0)))
    for number in (0.0, 0.9999):
        assert delay.decide(lambda: number) == (1.0, False)  # noqa: B023
        assert abort.decide(lambda: number) == (0.0, True)  # noqa: B023
    assert (abort.http_status, abort.grpc_status) == (503, GrpcStatus.UNAVAILABLE)


def test_no_percent_is_never() -> None:
    never = FaultRule(Fault(delay=Delay(percent=0.0, duration=1.0), abort=Abort(percent=0.0)))
    assert never.decide(lambda: 0.0) == (0.0, False)
