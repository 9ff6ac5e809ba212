"""The judge: what fails, what holds, and what a restart changes, which is nothing."""

from __future__ import annotations

import random
from math import exp

import msgspec
import pytest

from meshproxy.rollout.analysis import Analysis, Ceilings, Limit, Samples
from meshproxy.rollout.judge import SHARES, Judge, State
from meshproxy.rollout.verdict import Outcome, Verdict
from meshproxy.rollout.window import ArmWindow, bucket, score_bin


def arm(
    chance: random.Random,
    calls: int = 500,
    *,
    errors: float = 0.002,
    kind: str = "grpc 13",
    slower: float = 1.0,
    nan: float = 0.0,
    shift: float = 0.0,
    examples: int = 1,
) -> ArmWindow:
    """A window of log-normal latency around 20 ms an example."""
    window = ArmWindow(calls=calls)
    for _ in range(calls):
        if chance.random() < errors:
            window.failures[kind] = window.failures.get(kind, 0) + 1
            continue
        each = 0.02 * slower * exp(0.4 * chance.gauss(0, 1))
        for counts, number in (
            (window.latency, bucket(each * examples)),
            (window.latency_per_example, bucket(each)),
            (window.scores, score_bin(min(1.0, max(0.0, chance.betavariate(5, 2) + shift)))),
        ):
            counts[number] = counts.get(number, 0) + 1
        window.examples += examples
        window.answers += 1
        window.nan_answers += chance.random() < nan
    return window


def judged(judge: Judge, windows: int, **candidate: float) -> Verdict:
    """The first verdict that fails, or the last one."""
    chance = random.Random(11)
    verdict = Verdict(Outcome.INSUFFICIENT)
    for _ in range(windows):
        verdict = judge.add(arm(chance, **candidate), arm(chance))  # type: ignore[arg-type]
        if verdict.outcome is Outcome.FAIL:
            break
    return verdict


def test_an_equal_candidate_passes() -> None:
    assert judged(Judge(Analysis(), State()), 6) == Verdict(Outcome.PASS)


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        ({"errors": 0.05}, "it fails "),
        ({"errors": 0.08, "kind": "grpc 3"}, "it refuses the input of"),
        ({"slower": 1.2}, "times as long as the stable version, typically"),
        ({"slower": 2.0}, "90% percentile"),
        ({"nan": 0.05}, "NaN or infinities"),
        ({"shift": -0.15}, "the scores of its answers are distributed otherwise"),
    ],
)
def test_a_bad_candidate_fails_and_the_reason_says_why(candidate: dict[str, float], words: str) -> None:
    verdict = judged(Judge(Analysis(), State()), 3, **candidate)
    assert verdict.outcome is Outcome.FAIL
    assert any(words in reason for reason in verdict.reasons)


def test_what_does_not_matter_never_fails() -> None:
    """3 % slower: certain after a while, and not worth a rollback."""
    judge = Judge(Analysis(), State())
    assert judged(judge, 25, slower=1.03).outcome is Outcome.PASS
    assert judge.state.evidence["latency"].strength > 5


def test_larger_calls_are_compared_by_example() -> None:
    chance = random.Random(3)
    judge = Judge(Analysis(), State())
    for _ in range(3):
        verdict = judge.add(arm(chance, examples=8), arm(chance))
    assert verdict.outcome is Outcome.PASS
    for _ in range(3):
        verdict = judge.add(arm(chance, examples=8, slower=1.5), arm(chance))
    assert verdict.outcome is Outcome.FAIL
    assert "per example" in verdict.reasons[0]


def test_an_idle_model_is_held_for_ever() -> None:
    judge = Judge(Analysis(), State())
    for _ in range(60):
        verdict = judge.add(ArmWindow(), ArmWindow())
    assert verdict.outcome is Outcome.INSUFFICIENT
    assert "0 calls in this step" in verdict.reasons[0]


def test_few_calls_hold_unless_they_are_clear() -> None:
    few = Analysis(samples=Samples(calls=1_000))
    chance = random.Random(4)
    assert Judge(few, State()).add(arm(chance, 100), arm(chance, 900)).outcome is Outcome.INSUFFICIENT
    assert Judge(few, State()).add(arm(chance, 100, errors=0.5), arm(chance, 900)).outcome is Outcome.FAIL


def test_a_step_counts_its_own_samples() -> None:
    judge = Judge(Analysis(), State())
    assert judged(judge, 2).outcome is Outcome.PASS
    judge.state.begin_step()
    assert judge.add(ArmWindow(), ArmWindow()).outcome is Outcome.INSUFFICIENT


def test_suspicion_holds() -> None:
    judge = Judge(Analysis(), State())
    verdict = judge.add(ArmWindow(calls=200, failures={"grpc 13": 12}), ArmWindow(calls=200, failures={"grpc 13": 1}))
    assert verdict.outcome is Outcome.INSUFFICIENT
    assert "which may be chance" in verdict.reasons[0]


@pytest.mark.parametrize("ceilings", [Ceilings(error_share=0.01), Ceilings(latency=0.01), Ceilings(nan_share=0.001)])
def test_a_ceiling_fails_the_candidate_but_not_if_both_break_it(ceilings: Ceilings) -> None:
    chance = random.Random(5)
    bad = {"errors": 0.05, "nan": 0.05}
    analysis = Analysis(ceilings=ceilings)
    both = Judge(analysis, State())
    for _ in range(10):
        verdict = both.add(arm(chance, **bad), arm(chance, **bad))  # type: ignore[arg-type]
        assert verdict.outcome is Outcome.INSUFFICIENT or ceilings.latency is None
    assert verdict.outcome is Outcome.INSUFFICIENT
    assert "going back would not help" in " ".join(verdict.reasons)
    if ceilings.error_share:
        alone = Judge(analysis, State())
        assert alone.add(arm(chance, errors=0.1), arm(chance)).outcome is Outcome.FAIL


def test_shadow_copies_that_differ() -> None:
    judge = Judge(Analysis(ceilings=Ceilings(disagreement_share=0.02)), State())
    same = ArmWindow(calls=500)
    verdict = judge.add(ArmWindow(calls=500, shadows=300, disagreements=40), same)
    assert verdict.outcome is Outcome.FAIL
    assert "answers to copies differ" in verdict.reasons[0]


def test_a_version_that_turns_bad_late_is_found() -> None:
    judge = Judge(Analysis(), State())
    assert judged(judge, 20).outcome is Outcome.PASS
    assert judged(judge, 4, errors=0.05).outcome is Outcome.FAIL


def test_a_restart_changes_nothing() -> None:
    """The state goes through JSON after every window."""
    chance, again = random.Random(8), random.Random(8)
    kept = Judge(Analysis(), State())
    state = State()
    for _ in range(6):
        verdict = kept.add(arm(chance, slower=1.06), arm(chance))
        judge = Judge(Analysis(), msgspec.json.decode(msgspec.json.encode(state), type=State))
        assert judge.add(arm(again, slower=1.06), arm(again)) == verdict
        state = judge.state
    assert state == kept.state


def test_the_state_stays_small() -> None:
    """It is kept in the status of an object."""
    judge = Judge(Analysis(), State())
    judged(judge, 12)
    assert len(msgspec.json.encode(judge.state)) < 16_000


def test_all_tests_together_have_no_more_than_the_whole() -> None:
    assert sum(SHARES.values()) == pytest.approx(1.0)


def test_a_step_waits_for_answers_that_were_read() -> None:
    """What is in them is a sample, and may be one of few; where none can be read, nothing waits."""
    chance = random.Random(12)
    candidate, stable = arm(chance), arm(chance)
    judge = Judge(Analysis(), State())
    for _ in range(2):
        judge.add(candidate, stable)
    judge.state.begin_step()
    few = msgspec.structs.replace(candidate, answers=12, nan_answers=0)
    verdict = judge.add(few, stable)
    assert verdict.outcome is Outcome.INSUFFICIENT
    assert verdict.reasons == ("12 answers of the candidate were read in this step, and 100 are needed",)
    assert Judge(Analysis(metrics=(Limit("request-success-rate"),)), State()).add(few, stable).outcome is Outcome.PASS
    none = {"answers": 0, "nan_answers": 0, "scores": {}}
    unread = (msgspec.structs.replace(each, **none) for each in (candidate, stable))
    assert Judge(Analysis(), State()).add(*unread).outcome is Outcome.PASS


def test_a_step_waits_until_what_is_in_answers_was_compared() -> None:
    """However many calls the first window has: from it is only learned what is usual."""
    chance = random.Random(13)
    verdict = (judge := Judge(Analysis(), State())).add(arm(chance, shift=-0.3), arm(chance))
    assert verdict.outcome is Outcome.INSUFFICIENT
    (reason,) = verdict.reasons
    assert reason.startswith("0 answers of each version were compared by their scores, and 100 are needed")
    assert judge.add(arm(chance, shift=-0.3), arm(chance)).outcome is Outcome.FAIL

    judge = Judge(Analysis(), State())
    assert judge.add(arm(chance), arm(chance)).outcome is Outcome.INSUFFICIENT
    assert judge.add(arm(chance), arm(chance)).outcome is Outcome.PASS
    judge.state.begin_step()
    assert judge.add(arm(chance), arm(chance)).outcome is Outcome.PASS
