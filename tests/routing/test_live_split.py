"""The arms of a rollout: their weight moves, and outlives a reload."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.config.fields import Metadata
from meshproxy.config.rollouts import Arm, ModelRollout, RolloutSpec
from meshproxy.config.routes import Match, ModelRoute, RouteSpec
from meshproxy.identity.caller import ANONYMOUS
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.routing.carried_state import CarriedState
from meshproxy.routing.live_split import LiveSplit
from meshproxy.routing.routes import Routes, compile_routes

PLAIN = Call(Verb.PREDICT, (ModelRef("fraud"),))


THREE, FOUR = Arm("3"), Arm("4")


def rollout(candidate: Arm = FOUR, stable: Arm = THREE) -> ModelRollout:
    return ModelRollout(metadata=Metadata("r"), spec=RolloutSpec("fraud", stable, candidate))


def routes(carried: CarriedState, *documents: ModelRoute, rollouts: tuple[ModelRollout, ...]) -> Routes:
    return compile_routes("inbound", "local", None, documents, "d", carried, rollouts)


@settings(max_examples=30)
@given(st.floats(0, 1), st.floats(0, 100), st.floats(0, 100))
def test_points_move_to_the_candidate_while_the_weight_grows(point: float, a: float, b: float) -> None:
    split = LiveSplit("r", rollout().spec)
    split.weight = min(a, b)
    before = split.choose(PLAIN, point)
    split.weight = max(a, b)
    assert split.choose(PLAIN, point) is split.candidate or before is split.stable


def test_nobody_and_everybody() -> None:
    split = LiveSplit("r", rollout().spec)
    assert split.choose(PLAIN, 0.0) is split.stable
    split.weight = 100.0
    assert split.choose(PLAIN, 0.999999) is split.candidate


def test_calls_that_choose_their_version_are_of_no_arm() -> None:
    split = LiveSplit("r", rollout(Arm(server="canary"), Arm(server="local")).spec)
    split.weight = 100.0
    for call in (
        Call(Verb.PREDICT, (ModelRef("fraud", "3"),)),
        Call(Verb.PREDICT, (ModelRef("fraud", label="next"),)),
        Call(Verb.STATUS, (ModelRef("fraud"),)),
    ):
        arm = split.choose(call, 0.0)
        assert arm is split.bystander
        assert (arm.server, arm.rewrites) == ("local", False)


def test_the_routes_of_its_calls_keep_what_they_say() -> None:
    slow = ModelRoute(metadata=Metadata("slow"), spec=RouteSpec(("fraud",), timeout=9.0))
    marked = ModelRoute(
        metadata=Metadata("marked"), spec=RouteSpec(("fr*",), match=(Match({"x-a": "b"}),), timeout=1.0)
    )
    found = routes(CarriedState(), slow, marked, rollouts=(rollout(),))
    route = found.match(PLAIN, (), ANONYMOUS)
    assert (route.name, route.timeout, route.is_plain) == ("slow", 9.0, False)
    assert isinstance(route.split, LiveSplit)
    assert found.match(Call(Verb.PREDICT, (ModelRef("frx"),)), ((b"x-a", b"b"),), ANONYMOUS).split is None
    assert found.match(Call(Verb.PREDICT, (ModelRef("other"),)), (), ANONYMOUS).is_plain


def test_routes_of_one_rollout_share_its_weight_also_after_a_reload() -> None:
    carried = CarriedState()
    match = ModelRoute(metadata=Metadata("a"), spec=RouteSpec(("fraud",), match=(Match({"x-a": "b"}),)))

    def splits() -> tuple[object, object]:
        found = routes(carried, match, rollouts=(rollout(),))
        carried.adopt()
        return found.match(PLAIN, (), ANONYMOUS).split, found.match(PLAIN, ((b"x-a", b"b"),), ANONYMOUS).split

    first, second = splits()
    assert first is second
    assert isinstance(first, LiveSplit)
    first.weight = 20.0
    assert splits() == (first, first)
    (other,) = [routes(carried, rollouts=(rollout(Arm("5")),)).match(PLAIN, (), ANONYMOUS).split]
    carried.adopt()
    assert isinstance(other, LiveSplit)
    assert (other is first, other.weight, carried.splits()) == (False, 0.0, [other])


def test_sidecars_of_the_other_direction_do_not_choose() -> None:
    found = compile_routes("outbound", None, None, (), "d", CarriedState(), (rollout(),))
    assert found.match(PLAIN, (), ANONYMOUS).is_plain
