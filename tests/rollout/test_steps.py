"""The steps: what moves a rollout and what does not. Times are arguments, so an hour takes no time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.config.rollouts import Analysis, Arm, RolloutSpec
from meshproxy.config.rollouts import Rollback as RollbackWords
from meshproxy.rollout.steps import Command, CommandRefused, Gate, Phase, RolloutStatus, Steps
from meshproxy.rollout.verdict import Outcome
from meshproxy.rollout.window import ArmWindow, bucket

GOOD = ArmWindow(calls=200, latency={bucket(0.02): 200})
BAD = ArmWindow(calls=200, failures={"grpc 13": 100}, latency={bucket(0.02): 100})
IDLE = ArmWindow()
NOW = 1_000_000.0
HAPPENINGS = ("good", "bad", "idle", "kill", "yes", "no", "pause", "resume", "abort", "retry", "jump")


def spec(**more: Any) -> RolloutSpec:
    more.setdefault("analysis", Analysis(interval=60.0, step_weights=(10, 50)))
    return RolloutSpec(model="half", stable=Arm(version="1"), candidate=Arm(version="2"), **more)


def steps(given: RolloutSpec | None = None, status: RolloutStatus | None = None, now: float = NOW) -> Steps:
    return Steps(given or spec(), "r1", status, now)


def started(given: RolloutSpec | None = None) -> Steps:
    made = steps(given)
    made.confirmed(Gate.START, NOW)
    return made


def restarted(made: Steps, now: float) -> Steps:
    """Another control plane, which has nothing but the status."""
    kept = msgspec.json.decode(msgspec.json.encode(made.status), type=RolloutStatus)
    return steps(made.spec, kept, now)


def reasons(made: Steps) -> list[str]:
    return [notice.reason for notice in made.news]


def test_a_good_candidate_is_promoted_step_by_step() -> None:
    made = started()
    weights = [made.status.weight]
    now = NOW
    while made.status.is_active:
        now += 60
        assert made.window_is_over(now)
        made.judge(GOOD, GOOD, now)
        if made.status.gate is not None:
            made.confirmed(made.status.gate, now)
        weights.append(made.status.weight)
    assert weights == [10, 50, 100]
    assert reasons(made) == ["Started", "Advanced", "Promoted"]


def test_a_bad_candidate_goes_back_and_the_notice_says_why() -> None:
    made = started()
    made.judge(BAD, GOOD, NOW + 60)
    assert (made.status.phase, made.status.weight) == (Phase.ROLLED_BACK, 0)
    assert "it fails 50.00% of the calls, the stable version 0.00%" in made.news[-1].message
    assert made.news[-1].is_warning


def test_a_document_with_fewer_steps_while_a_gate_waits() -> None:
    made = started()
    made.judge(GOOD, GOOD, NOW + 60)
    assert made.status.gate is Gate.INCREASE
    made = steps(spec(analysis=Analysis(interval=60.0, step_weights=(10,))), made.status)
    made.confirmed(Gate.INCREASE, NOW + 70)
    assert (made.status.gate, made.status.weight) == (Gate.PROMOTION, 10)
    made.confirmed(Gate.PROMOTION, NOW + 80)
    assert made.status.weight == 100


def test_a_controller_that_is_killed_in_the_middle_of_a_step_is_followed_by_one_that_goes_on() -> None:
    made = started(spec(analysis=Analysis(step_weights=(10, 50), step_windows=3)))
    made.judge(GOOD, GOOD, NOW + 60)
    other = restarted(made, NOW + 90)
    assert (other.status.step, other.status.passed, other.status.weight) == (0, 1, 10)
    assert not other.window_is_over(NOW + 100)
    for window in (2, 3):
        other.judge(GOOD, GOOD, NOW + 60 * window)
    assert other.status.gate is Gate.INCREASE
    assert restarted(other, NOW + 200).status.gate is Gate.INCREASE


def test_an_idle_model_for_an_hour_is_held_and_told_of_once() -> None:
    made = started()
    for window in range(1, 61):
        made.judge(IDLE, IDLE, NOW + 60 * window)
    assert (made.status.phase, made.status.weight, made.status.stalled) == (Phase.PROGRESSING, 10, True)
    assert reasons(made) == ["Started", "Stalled"]
    made.judge(GOOD, GOOD, NOW + 3_660)
    assert made.status.gate is Gate.INCREASE


def test_both_versions_bad_goes_nowhere() -> None:
    """Going back would help nobody, and neither would going on."""
    made = started()
    for window in range(1, 10):
        made.judge(BAD, BAD, NOW + 60 * window)
        assert made.status.weight == 10 or made.status.gate is not None
    assert made.status.phase is Phase.PROGRESSING


def test_a_clock_that_is_set_back_ends_no_window_and_hangs_none() -> None:
    made = started()
    assert not made.window_is_over(NOW - 86_400)
    assert made.window_is_over(NOW - 86_400 + 60)


def test_a_clock_that_jumps_ahead_takes_no_step_without_calls() -> None:
    made = started()
    assert made.window_is_over(NOW + 10 * 86_400)
    assert made.judge(IDLE, IDLE, NOW + 10 * 86_400).outcome is Outcome.INSUFFICIENT
    assert made.status.weight == 10


def test_a_sidecar_kills_it_at_any_weight_also_while_paused_and_not_automatic() -> None:
    made = started(spec(rollback=RollbackWords(automatic=False)))
    made.order(Command.PAUSE, "me", NOW + 1)
    made.killed(made.status.attempt - 1, "of the attempt before", NOW + 2)
    assert made.status.is_active
    made.killed(made.status.attempt, "7 failures in a row", NOW + 2)
    assert made.status.phase is Phase.ROLLED_BACK
    made.killed(made.status.attempt, "another sidecar", NOW + 3)
    assert reasons(made) == ["Started", "Paused", "RolledBack"]


def test_without_automatic_rollback_it_is_held_and_told_of_once() -> None:
    made = started(spec(rollback=RollbackWords(automatic=False)))
    for window in range(1, 5):
        made.judge(BAD, GOOD, NOW + 60 * window)
    assert made.status.weight == 10
    assert reasons(made) == ["Started", "RollbackAdvised"]


def test_while_paused_nothing_is_judged() -> None:
    made = started()
    made.order(Command.PAUSE, "me", NOW + 1)
    assert not made.window_is_over(NOW + 600)
    made.order(Command.RESUME, "me", NOW + 600)
    assert not made.window_is_over(NOW + 601)
    assert made.window_is_over(NOW + 660)
    assert not started(spec(paused=True)).window_is_over(NOW + 600)


def test_a_gate_that_is_asked_while_it_turns_bad_does_not_open() -> None:
    made = started()
    made.judge(GOOD, GOOD, NOW + 60)
    assert made.status.gate is Gate.INCREASE
    made.judge(BAD, GOOD, NOW + 120)
    made.confirmed(Gate.INCREASE, NOW + 121)
    assert made.status.weight == 0


def test_a_pre_rollout_webhook_that_says_no_is_a_failed_window() -> None:
    made = steps(spec(analysis=Analysis(threshold=2)))
    made.denied(Gate.START, "webhook smoke: it answered 412", NOW)
    assert made.status.phase is Phase.WAITING
    made.denied(Gate.START, "webhook smoke: it answered 412", NOW + 10)
    assert made.status.phase is Phase.ROLLED_BACK


def test_orders() -> None:
    made = started()
    made.order(Command.ABORT, "me", NOW + 1)
    assert (made.status.phase, made.news[-1].message) == (
        Phase.ROLLED_BACK,
        "the stable version has all calls: ordered by me",
    )
    for command in (Command.ABORT, Command.PROMOTE, Command.PAUSE):
        with pytest.raises(CommandRefused, match="retry begins it anew"):
            made.order(command, "me", NOW + 2)
    made.order(Command.RETRY, "me", NOW + 3)
    assert (made.status.phase, made.status.attempt, made.status.gate) == (Phase.WAITING, 2, Gate.START)
    with pytest.raises(CommandRefused, match="it is waiting"):
        made.order(Command.RETRY, "me", NOW + 4)
    with pytest.raises(CommandRefused, match="not paused"):
        made.order(Command.RESUME, "me", NOW + 4)
    made.order(Command.PROMOTE, "me", NOW + 5)
    assert (made.status.phase, made.status.weight) == (Phase.PROMOTED, 100)


def test_other_arms_begin_anew() -> None:
    made = started()
    made.killed(1, "burst", NOW)
    other = Steps(made.spec, "r2", made.status, NOW + 5)
    assert (other.status.phase, other.status.attempt, other.status.weight) == (Phase.WAITING, 2, 0)


def test_thresholds_are_counted_over_the_rollout() -> None:
    made = started(spec(analysis=Analysis(mode="thresholds", threshold=2)))
    made.judge(BAD, GOOD, NOW + 60)
    made.judge(GOOD, GOOD, NOW + 120)
    assert made.status.is_active
    made.judge(BAD, GOOD, NOW + 180)
    assert made.status.phase is Phase.ROLLED_BACK


def test_fewer_steps_than_were_taken_already() -> None:
    made = started(spec(analysis=Analysis(step_weights=(10, 20, 30))))
    made.judge(GOOD, GOOD, NOW + 60)
    made.confirmed(Gate.INCREASE, NOW + 60)
    other = steps(spec(analysis=Analysis(step_weights=(50,))), made.status, NOW + 90)
    other.judge(GOOD, GOOD, NOW + 120)
    assert other.status.gate is Gate.PROMOTION


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(HAPPENINGS), st.integers(0, 90)),
        max_size=25,
    )
)
def test_whatever_happens_in_whatever_order(happenings: list[tuple[str, int]]) -> None:
    """The weight is one of the document's, or 0, or 100; it goes up only by a gate; it survives restarts."""
    made = steps()
    now = NOW
    for what, seconds in happenings:
        now += seconds if what != "jump" else -1_000
        before = made.status.weight
        try:
            if what in ("good", "bad", "idle"):
                if made.window_is_over(now):
                    made.judge({"good": GOOD, "bad": BAD, "idle": IDLE}[what], GOOD, now)
                assert made.status.weight <= before
            elif what == "kill":
                made.killed(made.status.attempt, "burst", now)
                assert made.status.weight == 0 or not made.status.is_active
            elif what in ("yes", "no") and made.status.gate is not None:
                if what == "yes":
                    made.confirmed(made.status.gate, now)
                else:
                    made.denied(made.status.gate, "no", now)
            elif what in ("pause", "resume", "abort", "retry"):
                made.order(Command(what), "me", now)
        except CommandRefused:
            pass
        assert made.status.weight in (0, 10, 50, 100)
        assert (made.status.weight == 100) is (made.status.phase is Phase.PROMOTED)
        made = restarted(made, now)
