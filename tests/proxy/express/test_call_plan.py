from __future__ import annotations

from typing import Any

import pytest

from meshproxy.config.routes import Retries
from meshproxy.config.servers import Key
from meshproxy.proxy.express.call_plan import MOST_OF_A_SHAPE, CallPlan, Plans, plan_call
from meshproxy.proxy.express_outcome import Outcome
from meshproxy.proxy.pipeline import ActiveRequest
from meshproxy.routing.retry import RetryRule
from tests.proxy.express.call_rig import CallRig, message, response
from tests.proxy.express.test_call_differential import call


def finished(rig: CallRig, **changes: Any) -> ActiveRequest:
    """A call that went well, of a shape that is kept."""
    done = None
    for number in range(2):
        rig.ask(rig.request(**call(number, **changes)))
        rig.settle()
        (stream,) = rig.server.streams.values()
        done = stream.sink
        number, data = rig.reply(response(1))
        rig.say(number, data)
        rig.settle()
    assert isinstance(done, ActiveRequest)
    return done


def plan(rig: CallRig, done: ActiveRequest) -> CallPlan | None:
    shape = done.head.shape
    assert shape is not None
    return plan_call(done, shape, rig.endpoint, b"http", rig.server.codec.encoder, rig.spans)


def test_a_plan_holds_the_head_that_was_written_but_for_what_differs() -> None:
    rig = CallRig(is_express=False)
    made = plan(rig, finished(rig))
    assert made is not None
    assert made.block in rig.wires[0].written
    assert b"id-1" not in made.block
    assert b"grpc-timeout" not in made.block


@pytest.mark.parametrize(
    "route",
    [
        {"try_timeout": 1.0},
        {"refuses_late": True},
        {"retry": RetryRule(Retries(attempts=2, hedge_after=0.1))},
        {"timeout": 0.4},
    ],
)
def test_what_does_not_happen_in_one_step_has_no_plan(route: dict[str, Any]) -> None:
    rig = CallRig(is_express=False, **route)
    assert plan(rig, finished(rig, timeout=None)) is None


def test_a_field_that_decides_is_no_slot() -> None:
    rig = CallRig(is_express=False)
    rig.policy.headers = frozenset({b"x-request-id"})
    assert plan(rig, finished(rig)) is None


def test_where_endpoints_go_by_a_key_there_is_no_plan() -> None:
    rig = CallRig(is_express=False)
    done = finished(rig)
    rig.cluster.key = Key(by="caller")
    assert plan(rig, done) is None


def test_plans_of_one_shape_are_bounded() -> None:
    rig = CallRig()
    for number in range(3 * MOST_OF_A_SHAPE):
        for _ in range(4):
            rig.ask(rig.request(**call(1, body=message(b"open-%d" % number))))
            rig.settle()
            which, data = rig.reply(response(1))
            rig.say(which, data)
            rig.settle()
    (shape,) = rig.server.codec._reader._shapes.values()
    assert isinstance(shape.plans, Plans)
    assert 1 < len(shape.plans.by_call) <= MOST_OF_A_SHAPE
    assert rig.count(Outcome.DEFECT) == 0
