"""Shares of calls: exact, steady, and what is written into a call."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.inference.call import Call, Chosen, ModelRef, Verb
from meshproxy.routing.split import Arm, Split, chosen, redirect, resolve

WEIGHTS = st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any)


def split(*weights: int) -> Split:
    return Split([Arm(weight, f"server-{place}") for place, weight in enumerate(weights)])


def place(arms: Split, point: float) -> int:
    return arms.arms.index(arms.at(point))


@given(WEIGHTS)
def test_shares_over_a_grid_are_the_weights(weights: list[int]) -> None:
    arms = split(*weights)
    assert arms.total == sum(weights)
    found = Counter(place(arms, step / arms.total) for step in range(arms.total))
    assert [found[index] for index in range(len(weights))] == weights


@given(WEIGHTS, st.floats(0, 1))
def test_a_point_belongs_to_an_arm_that_has_a_share(weights: list[int], point: float) -> None:
    arms = split(*weights)
    assert arms.at(point).weight > 0
    assert arms.at(point) is arms.at(point)


def test_the_largest_weights_and_the_last_point() -> None:
    arms = split(1_000_000, 0, 1_000_000, 0)
    assert [place(arms, point) for point in (0.0, 0.4999999, 0.5, 0.9999999999999999, 1.0)] == [0, 0, 2, 2, 2]
    assert place(split(0, 1, 0), (2**64 - 1) / 2**64) == 1


@given(WEIGHTS, st.data())
def test_points_only_move_towards_the_arm_that_grows(weights: list[int], data: st.DataObject) -> None:
    grown = data.draw(st.integers(0, len(weights) - 1))
    before = split(*weights)
    weights[grown] += data.draw(st.integers(1, 30))
    after = split(*weights)
    for step in range(101):
        was, now = place(before, step / 101), place(after, step / 101)
        assert min(was, grown) <= now <= max(was, grown)


@given(st.integers(0, 100), st.integers(0, 100))
def test_of_two_arms_no_more_changes_over_than_must(first: int, second: int) -> None:
    before, after = split(100 - first, first), split(100 - second, second)
    moved = sum(place(before, step / 100) != place(after, step / 100) for step in range(100))
    assert moved == abs(first - second)


def test_without_any_weight_there_is_no_split() -> None:
    with pytest.raises(ValueError, match="every weight is 0"):
        split(0, 0)


PLAIN, VERSION, LABEL = ModelRef("m", signature="s"), ModelRef("m", "7"), ModelRef("m", None, "stable", "s")
CANARY = Arm(1, None, "2")
ELSEWHERE = Arm(1, "other")
LABELLED = Arm(1, None, None, "canary")


@pytest.mark.parametrize(
    ("model", "arm", "labels", "expected"),
    [
        (PLAIN, None, {}, PLAIN),
        (PLAIN, ELSEWHERE, {}, PLAIN),
        (PLAIN, CANARY, {}, ModelRef("m", "2", None, "s")),
        (PLAIN, LABELLED, {}, ModelRef("m", None, "canary", "s")),
        (PLAIN, ELSEWHERE, {"stable": "3"}, PLAIN),
        # A version that was named stays, whatever the arm says.
        (VERSION, CANARY, {}, VERSION),
        (VERSION, CANARY, {"stable": "3"}, VERSION),
        (VERSION, LABELLED, {}, VERSION),
        # So does a label, unless the route knows what it means.
        (LABEL, CANARY, {}, LABEL),
        (LABEL, CANARY, {"other": "3"}, LABEL),
        (LABEL, None, {"stable": "3"}, ModelRef("m", "3", None, "s")),
        (LABEL, CANARY, {"stable": "3"}, ModelRef("m", "3", None, "s")),
        (ModelRef("m", "0"), CANARY, {}, ModelRef("m", "0")),
        (LABEL, None, {"stable": "0"}, ModelRef("m", "0", None, "s")),
    ],
)
@pytest.mark.parametrize("verb", [verb for verb in Verb if verb.is_versioned])
def test_what_is_written_into_a_call(
    model: ModelRef, arm: Arm | None, labels: dict[str, str], expected: ModelRef, verb: Verb
) -> None:
    call = Call(verb, (model,))
    found = resolve(call, arm, labels)
    assert found == Call(verb, (expected,))
    assert (found is call) == (expected is model or expected == model)


def test_every_model_of_a_call_is_looked_at() -> None:
    call = Call(Verb.MULTI_INFERENCE, (PLAIN, VERSION, LABEL))
    found = resolve(call, CANARY, {"stable": "3"})
    assert found.models == (ModelRef("m", "2", None, "s"), VERSION, ModelRef("m", "3", None, "s"))
    assert resolve(found, CANARY, {"stable": "3"}) is found


def test_a_question_about_all_versions_stays_one() -> None:
    status = Call(Verb.STATUS, (PLAIN,))
    assert resolve(status, CANARY, {}) is status
    assert resolve(status, CANARY, {"stable": "3"}) is status
    assert resolve(Call(Verb.STATUS, (LABEL,)), CANARY, {"stable": "3"}).models[0].version == "3"


@pytest.mark.parametrize("verb", [verb for verb in Verb if verb.is_admin])
def test_calls_about_the_server_are_left_alone(verb: Verb) -> None:
    for call in (Call(verb), Call(verb, (PLAIN,))):
        assert resolve(call, CANARY, {"stable": "3"}) is call
        assert redirect(call, None, "9", None) is call


def test_a_copy_asks_for_what_it_is_for() -> None:
    call = Call(Verb.PREDICT, (PLAIN, VERSION, LABEL))
    assert redirect(call, None, None, None) is call
    assert {(model.version, model.label) for model in redirect(call, None, "9", None).models} == {("9", None)}
    assert {(model.version, model.label) for model in redirect(call, None, None, "x").models} == {(None, "x")}
    assert [model.signature for model in redirect(call, None, "9", None).models] == ["s", None, "s"]


V2 = Arm(10, "canary", model="m2")
M2 = ModelRef("m2", None, None, "s")


@pytest.mark.parametrize(
    ("model", "arm", "expected"),
    [
        (PLAIN, V2, M2),
        (PLAIN, Arm(1, None, "3", model="m2"), ModelRef("m2", "3", None, "s")),
        (PLAIN, Arm(1, None, None, "x", "m2"), ModelRef("m2", None, "x", "s")),
        (PLAIN, Arm(1, model="m"), PLAIN),
        (PLAIN, Arm(1, None, "3", model="m"), ModelRef("m", "3", None, "s")),
        # A version or label is that of the model that it was said of.
        (VERSION, V2, VERSION),
        (LABEL, V2, LABEL),
    ],
)
def test_another_model_is_for_calls_that_name_neither_version_nor_label(
    model: ModelRef, arm: Arm, expected: ModelRef
) -> None:
    call = Call(Verb.PREDICT, (model,))
    found = resolve(call, arm, {})
    assert found.models == (expected,)
    assert (found is call) == (expected == model)
    assert chosen(call, found) == Chosen("m2" if expected.name == "m2" else None, expected.version, expected.label)


def test_several_models_do_not_become_one() -> None:
    mixed = Call(Verb.MULTI_INFERENCE, (PLAIN, ModelRef("other")))
    assert resolve(mixed, V2, {}) is mixed
    assert redirect(mixed, "m2", None, None) is mixed
    tasks = Call(Verb.MULTI_INFERENCE, (PLAIN, ModelRef("m", None, None, "t")))
    assert [model.name for model in resolve(tasks, V2, {}).models] == ["m2", "m2"]


def test_a_redirected_call_asks_for_nothing_of_the_old_model() -> None:
    for model in (PLAIN, VERSION, LABEL):
        assert redirect(Call(Verb.PREDICT, (model,)), "m2", None, None).models[0] == ModelRef(
            "m2", None, None, model.signature
        )
    assert redirect(Call(Verb.STATUS, (PLAIN,)), "m2", None, None).models == (PLAIN,)
