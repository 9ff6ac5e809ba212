"""Flagger's way: failed checks are counted; an idle window is none."""

from __future__ import annotations

import msgspec
import pytest

from meshproxy.rollout.analysis import Analysis, Limit
from meshproxy.rollout.thresholds import READINGS, Checks, check
from meshproxy.rollout.verdict import Outcome
from meshproxy.rollout.window import ArmWindow, bucket

AT_99 = Analysis(metrics=(Limit("request-success-rate", least=99.0),))
GOOD = ArmWindow(calls=1_000, latency={bucket(0.1): 1_000})
FAILING = ArmWindow(calls=1_000, failures={"grpc 13": 50}, latency={bucket(0.1): 950})


def test_a_good_window_passes() -> None:
    assert check(AT_99, Checks(), GOOD, GOOD).outcome is Outcome.PASS


def test_failed_checks_add_up_to_a_rollback() -> None:
    analysis, checks = msgspec.structs.replace(AT_99, threshold=3), Checks()
    outcomes = [check(analysis, checks, arm, GOOD).outcome for arm in (FAILING, GOOD, FAILING, FAILING)]
    assert outcomes == [Outcome.INSUFFICIENT, Outcome.PASS, Outcome.INSUFFICIENT, Outcome.FAIL]


def test_the_reason_has_the_value_and_the_limit() -> None:
    verdict = check(msgspec.structs.replace(AT_99, threshold=1), Checks(), FAILING, GOOD)
    assert verdict.reasons[0] == "request-success-rate is 95%, below 99%"


def test_an_idle_candidate_is_held() -> None:
    checks = Checks()
    for _ in range(100):
        assert check(Analysis(threshold=1), checks, ArmWindow(), GOOD).outcome is Outcome.INSUFFICIENT
    assert checks.failed == 0


@pytest.mark.parametrize(
    ("name", "candidate", "value"),
    [
        ("request-success-rate", FAILING, 95.0),
        ("request-duration", GOOD, 100.0),
        ("example-duration", ArmWindow(calls=200, latency_per_example={bucket(0.01): 9}), 10.0),
        ("response-size", ArmWindow(calls=200, sizes={bucket(500): 9}), 500.0),
        ("not-a-number", ArmWindow(calls=200, answers=100, nan_answers=3), 3.0),
        ("shadow-disagreement", ArmWindow(calls=200, shadows=50, disagreements=5), 10.0),
    ],
)
def test_what_can_be_limited(name: str, candidate: ArmWindow, value: float) -> None:
    _, read = READINGS[name]
    assert read(candidate, 0.99) == pytest.approx(value, rel=0.02)
    assert read(ArmWindow(), 0.99) is None


def test_a_limit_without_a_value_holds() -> None:
    analysis = Analysis(metrics=(Limit("shadow-disagreement", most=1.0),))
    verdict = check(analysis, Checks(), GOOD, GOOD)
    assert verdict.outcome is Outcome.INSUFFICIENT
    assert verdict.reasons == ("there is no shadow-disagreement in this window",)


@pytest.mark.parametrize(
    ("limit", "candidate", "words"),
    [
        (
            Limit("request-success-rate", increase=1.0),
            FAILING,
            "request-success-rate is 95%, the stable version's 100%",
        ),
        (Limit("request-duration", increase=10.0), ArmWindow(calls=200, latency={bucket(0.2): 9}), "is 200.4ms"),
        (Limit("request-duration", most=150.0), ArmWindow(calls=200, latency={bucket(0.2): 9}), "above 150ms"),
        (Limit("class-distribution", increase=0.25), ArmWindow(calls=200, classes={1: 50}), "has PSI"),
    ],
)
def test_worse_than_the_stable_version(limit: Limit, candidate: ArmWindow, words: str) -> None:
    stable = ArmWindow(calls=1_000, latency={bucket(0.1): 1_000}, classes={0: 50, 1: 50})
    analysis = Analysis(metrics=(limit,), threshold=1)
    assert check(analysis, Checks(), stable, stable).outcome is Outcome.PASS
    verdict = check(analysis, Checks(), candidate, stable)
    assert verdict.outcome is Outcome.FAIL
    assert words in verdict.reasons[0]
