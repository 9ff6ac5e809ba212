"""What a request on the lane counts for is given back once, over both HTTP versions."""

from __future__ import annotations

from typing import Any

import pytest

from meshproxy.proxy.express.carried import Carried
from meshproxy.proxy.express_outcome import Outcome
from tests.proxy.express import test_call_ride, test_ride


def http1() -> Any:
    return test_ride.in_flight(is_express=True, records=False, body=b"{}", trace=None)


def grpc() -> Any:
    return test_call_ride.in_flight(is_express=True)


@pytest.mark.parametrize("begin", [http1, grpc])
def test_a_defect_is_told_to_the_endpoint_once(begin: Any, caplog: pytest.LogCaptureFixture) -> None:
    rig = begin()
    (ride,) = rig.pipeline.live
    assert isinstance(ride, Carried)
    ride.replayed = 100
    rig.pipeline.replay_bytes += 100
    before = rig.pipeline.replay_bytes - 100
    assert rig.endpoint.load.in_flight == 1
    for times in (1, 2):
        ride.broke(RuntimeError("a defect"))
        assert (ride.replayed, rig.pipeline.live, rig.pipeline.replay_bytes) == (0, set(), before)
        assert rig.endpoint.load.in_flight == 0
        assert rig.pipeline.express[Outcome.FAILED] == times
    assert "internal error in the express lane" in caplog.text
