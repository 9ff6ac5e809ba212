from __future__ import annotations

import gc

import pytest

from meshproxy.codec.limits import Limits
from meshproxy.proxy.express.lane import MOST_ANSWERS, MOST_PLANS, MOST_SEEN, PATIENCE, WASTED, Lane
from meshproxy.proxy.express.ride import Ride
from meshproxy.proxy.express_outcome import Outcome
from meshproxy.proxy.pipeline import ActiveRequest
from meshproxy.transport.h1_server import H1Server
from tests.proxy.express.rig import Rig, answer, defect, request
from tests.proxy.test_sampled_answer import FakeSampler

TRACE = b"00-0123456789abcdef0123456789abcdef-%016x-%02x"


def warm(rig: Rig, trace: bytes | None = None, body: bytes = b"x") -> None:
    """Requests until the next one of their shape rides from end to end."""
    for number in range(5):
        own = None if trace is None else TRACE % (number + 1, 1)
        rig.ask(request(body * (number + 1), request_id=b"warm-%d" % number, trace=own))
        rig.answer(answer())


def test_a_plan_is_made_of_the_fourth_request_and_of_the_answer_to_the_fifth() -> None:
    rig = Rig()
    warm(rig)
    assert rig.outcomes == {Outcome.UNKNOWN: 2, Outcome.ANSWER: 1}
    rig.ask(request(b"other body", request_id=b"5"))
    rig.answer(answer(b"another answer"))
    assert rig.outcomes == {Outcome.UNKNOWN: 2, Outcome.ANSWER: 1, Outcome.CARRIED: 1}


def test_shapes_that_take_turns_all_get_a_plan() -> None:
    rig = Rig()
    for number in range(8):
        for target in (b"/v1/models/open-a:predict", b"/v1/models/open-b:predict"):
            rig.ask(request(request_id=b"%d" % number, target=target))
            rig.answer(answer())
    assert rig.count(Outcome.CARRIED) >= 6


def test_plans_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    for number in range(3 * MOST_PLANS):
        for _ in range(6):
            rig.ask(request(target=b"/v1/models/open-%d:predict" % number))
            rig.answer(answer())
    lane = rig.server.lane
    assert isinstance(lane, Lane)
    assert 0 < len(lane._plans) <= MOST_PLANS
    assert len(lane._seen) <= MOST_SEEN


def test_shapes_of_answers_are_bounded() -> None:
    rig = Rig()
    for number in range(3 * MOST_ANSWERS):
        for _ in range(3):
            rig.ask(request())
            rig.answer(answer(more=b"server: %d\r\n" % number))
    lane = rig.server.lane
    assert isinstance(lane, Lane)
    (plan,) = lane._plans.values()
    assert 0 < len(plan.answers) <= MOST_ANSWERS


def test_a_connection_whose_requests_are_all_different_does_without() -> None:
    rig = Rig()
    for number in range(PATIENCE + 2):
        rig.ask(request(target=b"/v1/models/open-%d:predict" % number))
        rig.answer(answer())
    assert rig.server.lane is None
    assert rig.count(Outcome.UNKNOWN) == PATIENCE


def test_a_connection_whose_answers_cannot_be_planned_does_without() -> None:
    rig = Rig()
    for _ in range(WASTED + 5):
        rig.ask(request())
        rig.answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert rig.server.lane is None
    assert rig.count(Outcome.ANSWER) == WASTED + 1


def test_the_first_request_of_a_connection_makes_no_lane_and_a_document_can_forbid_it() -> None:
    rig = Rig()
    rig.ask(request())
    rig.answer(answer())
    assert rig.server.lane is None
    rig.ask(request())
    assert rig.server.lane is not None
    ordinary = Rig(is_express=False)
    for _ in range(3):
        ordinary.ask(request())
        ordinary.answer(answer())
    assert ordinary.server.lane is None


def test_a_defect_closes_the_lane_and_the_request_takes_the_ordinary_way(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig()
    warm(rig)

    monkeypatch.setattr(type(rig.pool), "take_idle", defect)
    rig.ask(request(b"x", request_id=b"a"))
    rig.answer(answer())
    assert "internal error in the express lane" in caplog.text
    assert rig.server.lane is None
    assert rig.wire.written.count(b"200 OK") == 6


def test_nothing_of_a_finished_exchange_is_kept_once_a_plan_was_made() -> None:
    def count(*kinds: type) -> int:
        return sum(type(each) in kinds for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        servers, exchanges = count(H1Server), count(ActiveRequest, Ride)  # of other tests
        rig = Rig()
        warm(rig)
        rig.ask(request(b"x", request_id=b"a"))
        rig.answer(answer())
        assert rig.count(Outcome.CARRIED) == 1
        rig.records.clear()
        assert count(ActiveRequest, Ride) == exchanges
        rig.leave(is_eof=True)
        rig.server = None
        assert count(H1Server) == servers
    finally:
        gc.enable()


def test_a_defect_in_sending_costs_the_connection_to_the_server(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig()
    warm(rig)

    monkeypatch.setattr("meshproxy.proxy.express.lane.format_rest", defect)
    rig.ask(request(b"x", request_id=b"a"))
    rig.answer(answer())
    assert "internal error in the express lane" in caplog.text
    assert sorted(wire.state for wire in rig.wires) == ["aborted", "open"]
    assert rig.wire.written.count(b"200 OK") == 6
    assert (len(rig.pipeline.live), rig.pipeline.replay_bytes, rig.endpoint.load.in_flight) == (0, 0, 0)


def test_plans_go_by_the_limits_of_their_connection() -> None:
    """A reload gives new limits to new connections."""
    rigs = Rig(), Rig(is_express=False)
    for rig in rigs:
        rig.shared.limits = Limits(body_bytes=100)
        rig.server = rig.accept(rig.wire)
        rig.shared.limits = Limits()
        rig.pipeline.snapshot = rig.snapshot()
        warm(rig)
        rig.ask(request(b"x" * 200, request_id=b"long"))
        assert rig.asked is None
        assert rig.wire.written.count(b"413 ") == 1
    assert rigs[0].wire.written == rigs[1].wire.written


def test_no_plan_is_made_of_a_head_that_the_longest_values_make_too_large() -> None:
    """The codec counts 32 for each field, those too that are not among the forwarded ones."""
    names = [b"h%d" % number for number in range(17)]
    more = b"connection: " + b", ".join(names) + b"\r\n" + b"".join(name + b": v\r\n" for name in names)
    rigs = Rig(), Rig(is_express=False)
    for rig in rigs:
        rig.shared.limits = Limits(header_bytes=1_024)
        rig.server = rig.accept(rig.wire)
        for _ in range(6):
            rig.ask(request(request_id=b"1", more=more))
            rig.answer(answer())
        rig.ask(request(request_id=b"1" * 64, more=more))
        rig.answer(answer())
    assert rigs[0].wire.written == rigs[1].wire.written
    assert rigs[0].count(Outcome.CARRIED) == 0


def test_plans_of_one_snapshot_at_a_time() -> None:
    rig = Rig()
    for number in range(MOST_PLANS):
        rig.pipeline.snapshot = rig.snapshot()
        for _ in range(5):
            rig.ask(request(target=b"/v1/models/open-%d:predict" % number))
            rig.answer(answer())
        lane = rig.server.lane
        assert isinstance(lane, Lane)
        assert len({id(plan.snapshot) for plan in lane._plans.values()}) == 1


def test_admin_calls_are_asked_about_each_time() -> None:
    """Whether the audit trail can be written may change at any time (`ProxyContext.admit_admin`)."""
    rig = Rig()
    asked: list[str] = []
    rig.pipeline.admit_admin = lambda: asked.append("asked")
    for _ in range(9):
        rig.ask(request(method=b"GET", target=b"/monitoring/prometheus/metrics"))
        rig.answer(answer())
    assert rig.pipeline.served == len(asked) == 9


def test_a_call_whose_answer_is_to_be_read_takes_the_ordinary_way() -> None:
    sampler = FakeSampler()
    rig = Rig()
    rig.pipeline.sampler = sampler
    warm(rig)
    assert rig.count(Outcome.CARRIED) == 0
    assert rig.count(Outcome.SAMPLED) > 0
    assert sampler.told == [(True, b"answer")] * 5
    assert sampler.begun == 5


def test_models_whose_answers_are_not_read_ride() -> None:
    sampler = FakeSampler()
    sampler.is_wanted = False
    rig = Rig()
    rig.pipeline.sampler = sampler
    warm(rig)
    rig.ask(request(b"x", request_id=b"a"))
    rig.answer(answer())
    assert rig.count(Outcome.CARRIED) == 1
    assert sampler.told == []
