from __future__ import annotations

from typing import Any

import pytest

from meshproxy.identity.caller import Caller
from meshproxy.proxy.attempt import Attempt
from meshproxy.proxy.exchange import TraceContext
from meshproxy.proxy.express.ride import Ride
from meshproxy.proxy.express_outcome import Outcome
from meshproxy.proxy.pipeline import ActiveRequest
from meshproxy.proxy.retries import Retries
from meshproxy.transport.h1_client import H1Client
from meshproxy.transport.h1_server import H1Server
from tests.proxy.express.rig import Rig, answer, defect, request
from tests.proxy.express.test_lane import TRACE, warm


def slots(thing: object) -> list[str]:
    """The names of all attributes of an object whose classes have `__slots__`."""
    names = []
    for cls in type(thing).__mro__:
        declared = cls.__dict__.get("__slots__", ())
        names += [declared] if isinstance(declared, str) else list(declared)
    return names


def state(thing: Any, *, without: tuple[str, ...] = ()) -> dict[str, object]:
    """All there is of it, down to what it is made of; what belongs to the surroundings only by its type."""
    told: dict[str, object] = {}
    for name in slots(thing):
        if name in without:
            continue
        value = getattr(thing, name)
        if isinstance(value, Retries | Attempt):
            value = state(value, without=("_request", "_listener", "_is_grpc"))
        elif isinstance(value, TraceContext):
            value = [getattr(value, part) for part in slots(value) if part != "record"]
        elif isinstance(value, Caller):
            value = str(value)
        elif not isinstance(value, int | float | str | bytes | tuple | list | None):
            value = getattr(value, "value", type(value))
        told[name] = value
    return told


def in_flight(*, is_express: bool, records: bool, body: bytes, trace: bytes | None) -> Rig:
    """A request of a known shape that has been sent."""
    rig = Rig(is_express=is_express, records=records)
    warm(rig, trace, body)
    rig.ask(request(body, request_id=b"last", trace=trace and TRACE % (99, 1)))
    return rig


class TestUnfolding:
    """An unfolded ride is the ordinary request, in the state that it would have without the lane: all of it, the
    connections and their codecs."""

    @pytest.mark.parametrize("records", [False, True])
    @pytest.mark.parametrize("body", [b"", b"{}"])
    @pytest.mark.parametrize("trace", [None, TRACE % (1, 1)])
    def test_it_has_the_state_of_an_ordinary_request(self, records: bool, body: bytes, trace: bytes | None) -> None:
        lane = in_flight(is_express=True, records=records, body=body, trace=trace)
        ordinary = in_flight(is_express=False, records=records, body=body, trace=trace)
        ride = lane.server.ride
        assert isinstance(ride, Ride)
        (upstream,) = [each for each in lane.clients if each.ride is ride]
        ride.client_acted()
        lane.turn()
        assert lane.server.ride is upstream.ride is None
        unfolded, expected = lane.server.sink, ordinary.server.sink
        assert isinstance(unfolded, ActiveRequest)
        assert isinstance(expected, ActiveRequest)
        assert state(unfolded) == state(expected)
        assert lane.pipeline.live == {unfolded}
        assert upstream._gathered == []
        for mine, theirs in ((lane.server, ordinary.server), (upstream, ordinary.asked)):
            assert isinstance(theirs, H1Server | H1Client)
            assert state(mine, without=("lane", "shared")) == state(theirs, without=("lane", "shared"))
            codec, other = mine._codec, theirs._codec
            own = ("_requests", "_responses", "_stream") if mine is upstream else ("_requests", "_responses")
            assert state(codec, without=own) == state(other, without=own)

    def test_a_ride_that_takes_long_is_looked_at_as_a_request_is(self) -> None:
        rig = Rig()
        warm(rig)
        rig.ask(request(b"{}", request_id=b"last"))
        rig.wait(1.3)
        assert rig.count(Outcome.TIME) == 0
        rig.wait(0.5)
        assert rig.count(Outcome.TIME) == 1
        (live,) = rig.pipeline.live
        assert isinstance(live, ActiveRequest)

    def test_what_goes_wrong_in_unfolding_ends_that_request_only(self, caplog: pytest.LogCaptureFixture) -> None:
        rig = Rig()
        warm(rig)
        rig.ask(request(b"{}", request_id=b"last"))
        ride = rig.server.ride
        assert isinstance(ride, Ride)
        ride.plan.operation = None  # type: ignore[assignment]
        rig.answer(answer()[:10])
        assert "internal error in a request" in caplog.text
        assert b"HTTP/1.1 500 " in rig.wire.written
        assert rig.pipeline.replay_bytes == 0
        assert rig.pipeline.live == set()
        assert [wire.state for wire in rig.wires].count("aborted") == 1


def test_what_goes_wrong_with_an_answer_ends_both_connections(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig()
    warm(rig)
    rig.ask(request(b"{}", request_id=b"last"))

    monkeypatch.setattr(type(rig.endpoint), "succeeded", defect)
    rig.answer(answer())
    assert "internal error in the express lane" in caplog.text
    assert rig.count(Outcome.FAILED) == 1
    assert rig.wire.state == "aborted"
    assert rig.pipeline.live == set()
    assert rig.pipeline.replay_bytes == 0


@pytest.mark.parametrize("what", ["the client sends", "the client leaves", "the server leaves", "time passes", "drain"])
def test_a_defect_in_unfolding_costs_both_connections_and_nothing_else(
    what: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig()
    warm(rig)
    rig.ask(request(b"{}", request_id=b"last"))

    monkeypatch.setattr(H1Server, "unfold", defect)
    match what:
        case "the client sends":
            rig.ask(request(request_id=b"another"))
        case "the client leaves":
            rig.leave(is_eof=True)
        case "the server leaves":
            rig.hang_up(is_eof=False)
        case "time passes":
            rig.wait(61.0)
        case "drain":
            rig.server.drain()
    assert "internal error in the express lane" in caplog.text
    assert rig.count(Outcome.FAILED) == 1
    assert rig.wire.state != "open"
    assert rig.server.ride is None
    assert [each.ride for each in rig.clients] == [None] * len(rig.clients)
    assert rig.pipeline.live == set()
    assert (rig.pipeline.replay_bytes, rig.endpoint.load.in_flight) == (0, 0)
