"""Messages between sidecars and the controller of rollouts."""

from __future__ import annotations

import msgspec
import pytest

from meshproxy.rollout.link import ReportedRollout, RolloutsReport, RolloutState, RolloutStates
from meshproxy.rollout.window import ArmWindow


def test_they_are_read_as_they_were_written() -> None:
    window = ArmWindow(calls=3, failures={"grpc 13": 1}, latency={7: 2}, scores={-3: 1})
    report = RolloutsReport("s", (ReportedRollout("r", "1", 2, window, ArmWindow(), "a burst"),))
    assert msgspec.json.decode(msgspec.json.encode(report), type=RolloutsReport) == report
    states = RolloutStates((RolloutState("r", "1", 1, 12.5), RolloutState("s", "2", is_active=False)))
    assert msgspec.json.decode(msgspec.json.encode(states), type=RolloutStates) == states


@pytest.mark.parametrize(
    "text", [b'{"rollout":"r","revision":"1","weight":101}', b'{"rollout":"r","revision":"1","attempt":-1}']
)
def test_what_is_no_state(text: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=RolloutState)
