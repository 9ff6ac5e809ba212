from __future__ import annotations

import gc

import pytest

from meshproxy.proxy.express.call_lane import MOST_ANSWERS, MOST_OF_A_CONNECTION, PATIENCE, WASTED
from meshproxy.proxy.express.call_plan import Plans
from meshproxy.proxy.express.call_ride import CallRide
from meshproxy.proxy.express_outcome import Outcome
from meshproxy.proxy.pipeline import ActiveRequest
from meshproxy.routing.retry import RetryBudget
from meshproxy.transport.h2_server import H2Server, RideStream
from meshproxy.upstream.balancer import RoundRobin
from tests.proxy.express.call_rig import GRPC, PREDICT, CallRig, TwoServersRig, message, response
from tests.proxy.express.rig import defect
from tests.proxy.express.test_call_differential import WARM, Step, call, do, exchange


def run(rig: CallRig, script: list[Step]) -> None:
    for step in script:
        do(rig, step)
        rig.settle()


def test_a_plan_is_made_of_the_fourth_call_and_of_the_answer_to_the_fifth() -> None:
    rig = CallRig()
    run(rig, WARM)
    assert rig.outcomes == {Outcome.UNKNOWN: 2, Outcome.ANSWER: 1}
    run(rig, exchange(9))
    assert rig.outcomes == {Outcome.UNKNOWN: 2, Outcome.ANSWER: 1, Outcome.CARRIED: 1}


def test_models_that_take_turns_all_get_a_plan() -> None:
    rig = CallRig()
    for number in range(10):
        for model in (b"open-a", b"open-b", b"open-c"):
            run(rig, exchange(number, body=message(model)))
    assert rig.count(Outcome.CARRIED) >= 12
    assert [line.count(b"open-b") > 0 for line in rig.log.lines].count(True) == 10


def test_answers_of_a_plan_are_bounded() -> None:
    rig = CallRig()
    run(rig, WARM)
    for number in range(2 * MOST_ANSWERS):
        for _ in range(2):
            run(rig, [exchange(9)[0], ("answer", {"body": response(number)})])
    (shape,) = rig.server.codec._reader._shapes.values()
    assert isinstance(shape.plans, Plans)
    (plan,) = shape.plans.by_call.values()
    assert 1 < len(plan.answers) <= MOST_ANSWERS
    assert b'effective_version":"3"' in b"".join(rig.log.lines) or b'"3"' in b"".join(rig.log.lines)


def test_plans_of_a_connection_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshproxy.proxy.express.call_lane.MOST_OF_A_CONNECTION", 8)
    rig = CallRig()
    most = 0
    for number in range(3 * 8):
        for _ in range(4):
            run(rig, exchange(number, more=((b"x-shape", b"%d" % number),)))
        kept = [each.plans for each in rig.server.codec._reader._shapes.values() if isinstance(each.plans, Plans)]
        plans = [plan for each in kept for plan in each.by_call.values()]
        most = max(most, len(plans) + sum(len(plan.answers) for plan in plans))
    assert 6 <= most <= 8 < MOST_OF_A_CONNECTION
    assert rig.count(Outcome.CARRIED) >= 8


def test_a_connection_whose_calls_are_all_different_does_without() -> None:
    rig = CallRig()
    for number in range(PATIENCE + 5):
        run(rig, exchange(number, more=((b"x-odd", b"%d" % number),)))
    assert rig.server.lane is None
    assert rig.count(Outcome.UNKNOWN) == PATIENCE


def test_a_connection_whose_answers_cannot_be_planned_does_without() -> None:
    rig = CallRig()
    failed = {"body": response(1), "head": (*GRPC, (b"x", b"y")), "end": ((b"grpc-status", b"5"),)}
    for number in range(WASTED + PATIENCE):
        run(rig, [("call", call(number)), ("answer", failed)])
    assert rig.count(Outcome.CARRIED) == 0


def test_the_first_call_makes_no_lane_and_a_document_can_forbid_it() -> None:
    rig, ordinary = CallRig(), CallRig(is_express=False)
    run(rig, exchange(0))
    assert rig.server.lane is None
    run(rig, exchange(1))
    assert rig.server.lane is not None
    run(ordinary, WARM)
    assert ordinary.server.lane is None


def test_a_defect_closes_the_lane_and_the_call_takes_the_ordinary_way(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = CallRig()
    run(rig, WARM)
    monkeypatch.setattr(type(rig.pool), "find_open", defect)
    run(rig, exchange(9))
    assert "internal error in the express lane" in caplog.text
    assert rig.server.lane is None
    assert rig.count(Outcome.DEFECT) == 1
    assert len(rig.log.lines) == 6
    assert rig.clients[0].streams == rig.server.streams == {}


def test_a_defect_between_both_streams_leaves_neither_behind(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model server is told that nobody waits, and the call takes the ordinary way."""
    rig = CallRig()
    run(rig, WARM)
    monkeypatch.setattr(RideStream, "__init__", defect)
    rig.ask(rig.request(**call(9)))
    rig.settle()
    assert "internal error in the express lane" in caplog.text
    assert rig.server.lane is None
    assert len(rig.clients[0].streams) == len(rig.server.streams) == 1
    run(rig, [("answer", {"body": response(1), "which": -1})])
    assert len(rig.log.lines) == 6
    assert rig.clients[0].streams == rig.server.streams == {}
    assert (len(rig.pipeline.live), rig.pipeline.replay_bytes, rig.endpoint.load.in_flight) == (0, 0, 0)


@pytest.mark.parametrize("where", ["begin", "deposit"])
def test_a_defect_after_sending_costs_that_call(
    where: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not sent twice."""
    rig = CallRig()
    run(rig, WARM)
    place = type(rig.endpoint) if where == "begin" else RetryBudget
    monkeypatch.setattr(place, where, defect)
    rig.ask(rig.request(**call(9)))
    rig.settle()
    assert "internal error in the express lane" in caplog.text
    assert rig.clients[0].streams == rig.server.streams == {}
    assert rig.wires[0].written.count(PREDICT) == 6
    assert (len(rig.pipeline.live), rig.pipeline.replay_bytes, rig.endpoint.load.in_flight) == (0, 0, 0)


def test_nothing_of_a_finished_call_is_kept_once_a_plan_was_made() -> None:
    def count(*kinds: type) -> int:
        return sum(type(each) in kinds for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        servers, exchanges = count(H2Server), count(ActiveRequest, CallRide)  # of other tests
        rig = CallRig()
        run(rig, [*WARM, *exchange(9)])
        assert rig.count(Outcome.CARRIED) == 1
        rig.records.clear()
        assert count(ActiveRequest, CallRide) == exchanges
        rig.leave(is_eof=True)
        rig.server = None
        assert count(H2Server) == servers
    finally:
        gc.enable()


def test_admin_calls_are_asked_about_each_time() -> None:
    """Whether the audit trail can be written may change at any time (`ProxyContext.admit_admin`)."""
    rig = CallRig()
    asked: list[str] = []
    rig.pipeline.admit_admin = lambda: asked.append("asked")
    reload = b"\0\0\0\0\x0c\x0a\x0a\x0a\x08\x0a\x06\x0a\x04open"
    for number in range(9):
        run(rig, exchange(number, path=b"/tensorflow.serving.ModelService/HandleReloadConfigRequest", body=reload))
    assert rig.pipeline.served == len(asked) == 9


def test_a_server_without_a_connection_keeps_its_turn() -> None:
    """Calls to it cannot ride, and the ordinary way does not go on to the next server."""
    rig = TwoServersRig()
    rig.cluster._grpc = RoundRobin(lambda count: 0)
    rig.cluster._grpc.update([rig.endpoint, rig.other])
    assert rig.other.grpc is not None
    run(rig, [*WARM, *WARM])
    assert rig.count(Outcome.CARRIED) > 0
    rig.other.grpc._usable.clear()
    for number in range(4):
        run(rig, exchange(number))
    assert len(rig.other.grpc._waiting) == 2
