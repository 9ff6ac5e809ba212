from __future__ import annotations

import pytest

from meshproxy.proxy.express.call_ride import CallRide
from meshproxy.proxy.express_outcome import Outcome
from meshproxy.proxy.pipeline import ActiveRequest, Pipeline
from meshproxy.transport.h2_server import ENDED_AT_ONCE, RideStream
from tests.proxy.express.call_rig import CallRig, response
from tests.proxy.express.rig import defect
from tests.proxy.express.test_call_differential import WARM, call, do
from tests.proxy.express.test_ride import state


def in_flight(*, is_express: bool, records: bool = False) -> CallRig:
    """A call of a known shape that has been sent."""
    rig = CallRig(is_express=is_express, records=records)
    for step in WARM:
        do(rig, step)
        rig.settle()
    rig.ask(rig.request(**call(9)))
    return rig


@pytest.mark.parametrize("records", [False, True])
def test_an_unfolded_ride_has_the_state_of_an_ordinary_request(records: bool) -> None:
    lane, ordinary = in_flight(is_express=True, records=records), in_flight(is_express=False, records=records)
    (ride,) = lane.pipeline.live
    assert isinstance(ride, CallRide)
    upstream = ride.upstream_connection
    ride.lane.unfold(ride, Outcome.TIME)
    (stream,) = lane.server.streams.values()
    (other,) = ordinary.server.streams.values()
    unfolded, expected = stream.sink, other.sink
    assert isinstance(unfolded, ActiveRequest)
    assert isinstance(expected, ActiveRequest)
    assert state(unfolded, without=("stream",)) == state(expected, without=("stream",))
    assert unfolded.stream is stream
    assert lane.pipeline.live == {unfolded}
    assert upstream.ride is None
    (theirs,) = [each for client in ordinary.clients for each in client.streams.values()]
    assert state(upstream) == state(theirs)
    assert isinstance(stream, RideStream)
    assert stream.ride is None
    assert state(stream, without=("ride",)) == state(other)
    assert lane.connections() == ordinary.connections()


@pytest.mark.parametrize("what", ["the answer breaks", "the client leaves", "time passes", "an answer"])
def test_a_defect_costs_that_call_and_nothing_else(
    what: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = in_flight(is_express=True)
    if what == "an answer":
        monkeypatch.setattr(type(rig.endpoint), "succeeded", defect)
    else:
        (ride,) = rig.pipeline.live
        assert isinstance(ride, CallRide)
        ride.lane._resume = defect  # type: ignore[attr-defined]
    number, stream = 0, max(rig.clients[0].streams)
    match what:
        case "the answer breaks":
            rig.settle()
            number, data = rig.reply(response(1), parts=2)
            rig.say(number, data[:40], data[40:])
        case "the client leaves":
            rig.caller.reset(max(rig.caller._streams), 8)
            rig.ask(rig.caller.take_output())
        case "time passes":
            rig.wait(61.0)
        case _:
            rig.settle()
            number, data = rig.reply(response(1))
            rig.say(number, data)
    assert "internal error in the express lane" in caplog.text
    assert rig.count(Outcome.FAILED) == 1
    assert rig.pipeline.live == set()
    assert rig.pipeline.replay_bytes == 0
    assert stream not in rig.clients[0].streams
    assert rig.server.streams == {}
    assert rig.wire.state == rig.wires[0].state == "open"
    assert rig.endpoint.load.in_flight == 0


def test_what_goes_wrong_in_unfolding_ends_that_call_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = in_flight(is_express=True)
    monkeypatch.setattr(ActiveRequest, "unfold", defect)
    rig.settle()
    number, data = rig.reply(response(1), parts=2)
    rig.say(number, data[:40], data[40:])
    assert "internal error in a request" in caplog.text
    assert rig.pipeline.live == set()
    assert rig.server.streams == {}
    assert isinstance(rig.pipeline, Pipeline)


def test_an_answer_goes_nowhere_if_it_comes_between_the_end_of_the_connection_and_that_of_the_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = in_flight(is_express=True)
    for number in range(ENDED_AT_ONCE):
        rig.ask(rig.request(**call(10 + number)))
        rig.settle()
    seen = len(rig.wire.written)
    rig.server.connection_lost(None)
    (ride,) = rig.pipeline.live
    assert isinstance(ride, CallRide)
    number, data = rig.reply(response(1), which=-1)
    rig.clients[number].data_received(data)
    rig.turn()
    assert caplog.text == ""
    assert rig.count(Outcome.FAILED) == 0
    assert rig.pipeline.live == set()
    assert rig.endpoint.load.in_flight == 0
    assert len(rig.wire.written) == seen
