"""Percent and milliseconds become shares and seconds."""

from __future__ import annotations

import pytest

from meshproxy.config.rollouts import Analysis, Arm, FastKill, Metric, Rollback, RolloutSpec, ThresholdRange
from meshproxy.rollout.analysis import Ceilings, Limit, Mode
from meshproxy.rollout.settings import LEAST_SHARE, analysis_of


def spec(*metrics: Metric, **analysis: object) -> RolloutSpec:
    return RolloutSpec(
        model="half",
        stable=Arm(version="1"),
        candidate=Arm(version="2"),
        analysis=Analysis(metrics=metrics, **analysis),  # type: ignore[arg-type]
        rollback=Rollback(fast_kill=FastKill(ratio=3.0)),
    )


def test_ranges_become_ceilings() -> None:
    made = analysis_of(
        spec(
            Metric("request-success-rate", ThresholdRange(min=99.5)),
            Metric("request-duration", ThresholdRange(max=250.0), quantile=0.95),
            Metric("shadow-disagreement", ThresholdRange(max=2.0)),
        )
    )
    assert made.ceilings.error_share == pytest.approx(0.005)
    assert (made.ceilings.latency, made.ceilings.latency_quantile) == (0.25, 0.95)
    assert made.ceilings.disagreement_share == pytest.approx(0.02)


def test_increases_become_effects() -> None:
    made = analysis_of(
        spec(
            Metric("request-success-rate", max_increase=2.0),
            Metric("request-duration", max_increase=20.0),
            Metric("not-a-number", max_increase=0.5),
            Metric("response-size", max_increase=100.0),
            Metric("score-distribution", max_increase=0.1),
        )
    )
    effects = made.effects
    assert (effects.error_share, effects.latency_ratio, effects.nan_share) == pytest.approx((0.02, 1.2, 0.005))
    assert (effects.size_ratio, effects.psi) == pytest.approx((2.0, 0.1))
    assert made.ceilings.nan_share == pytest.approx(0.005)


def test_the_rest() -> None:
    made = analysis_of(spec(mode="thresholds", threshold=3, min_calls=7, false_alarm=0.01))
    assert (made.mode, made.threshold, made.false_rollbacks) == (Mode.THRESHOLDS, 3, 0.01)
    assert made.samples.calls == 7
    assert made.fast_kill.ratio == 3.0
    assert made.metrics[0] == Limit("request-success-rate", increase=1.0)


def test_never_and_always() -> None:
    """A success rate of 100 % allows next to nothing, one of 0 % forbids nothing."""
    made = [analysis_of(spec(Metric("request-success-rate", ThresholdRange(min=each)))).ceilings for each in (100, 0)]
    assert made[0].error_share == LEAST_SHARE
    assert made[1].error_share is None
    assert Ceilings().error_share is None
