"""The document's words as the judge's numbers: percent become shares, milliseconds become seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.rollout.analysis import Analysis, Ceilings, Effects, FastKillSettings, Limit, Mode, Samples

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshproxy.config.rollouts import FastKill, Metric, MetricWord, RolloutSpec

INCREASES = {
    "request-success-rate": 1.0,
    "request-duration": 10.0,
    "example-duration": 10.0,
    "not-a-number": 0.1,
    "class-distribution": 0.25,
    "score-distribution": 0.25,
    "response-size": 50.0,
    "shadow-disagreement": 1.0,
}
"""`maxIncrease` where the document has none."""


def analysis_of(spec: RolloutSpec) -> Analysis:
    """How the rollout of a document is judged."""
    given = spec.analysis
    judged = {metric.name: metric for metric in given.judged}
    duration = judged.get("request-duration") or judged.get("example-duration")
    return Analysis(
        mode=Mode(given.mode),
        threshold=given.threshold,
        metrics=tuple(_limit(metric) for metric in given.judged),
        samples=Samples(given.min_calls),
        effects=Effects(
            error_share=_increase(judged.get("request-success-rate"), "request-success-rate") / 100,
            input_share=_increase(judged.get("request-success-rate"), "request-success-rate") / 100,
            latency_ratio=1 + _increase(duration, "request-duration") / 100,
            nan_share=_increase(judged.get("not-a-number"), "not-a-number") / 100,
            psi=_increase(judged.get("score-distribution") or judged.get("class-distribution"), "score-distribution"),
            size_ratio=1 + _increase(judged.get("response-size"), "response-size") / 100,
        ),
        ceilings=_ceilings(judged, duration),
        fast_kill=fast_kill_of(spec.rollback.fast_kill),
        false_rollbacks=given.false_alarm,
    )


def fast_kill_of(given: FastKill) -> FastKillSettings:
    """When a sidecar trips by itself."""
    return FastKillSettings(enabled=given.enabled, least_share=given.least_share, ratio=given.ratio)


def _limit(metric: Metric) -> Limit:
    given = metric.threshold_range
    return Limit(
        metric.name,
        given.min if given is not None else None,
        given.max if given is not None else None,
        _increase(metric, metric.name),
        metric.quantile,
    )


def _increase(metric: Metric | None, name: str) -> float:
    return metric.max_increase if metric is not None and metric.max_increase is not None else INCREASES[name]


def _ceilings(judged: Mapping[MetricWord, Metric], duration: Metric | None) -> Ceilings:
    """Bounds at the ends of a scale bound nothing: a success rate of at least 0 %."""

    def bound(metric: Metric | None, end: str) -> float | None:
        given = metric.threshold_range if metric is not None else None
        return None if given is None else (given.min if end == "min" else given.max)

    success = bound(judged.get("request-success-rate"), "min")
    latency = bound(duration, "max")
    nan = bound(judged.get("not-a-number"), "max")
    disagreement = bound(judged.get("shadow-disagreement"), "max")
    copies = judged.get("shadow-disagreement")
    if copies is not None and disagreement is None:
        disagreement = _increase(copies, "shadow-disagreement")
    return Ceilings(
        error_share=_share(None if success is None else 100 - success),
        latency=None if latency is None or latency <= 0 else latency / 1e3,
        latency_quantile=duration.quantile if duration is not None else 0.99,
        nan_share=_share(_increase(judged.get("not-a-number"), "not-a-number") if nan is None else nan),
        disagreement_share=_share(disagreement),
    )


LEAST_SHARE = 1e-6
"""What "never" is taken for: no number of calls shows that something never happens."""


def _share(percent: float | None) -> float | None:
    if percent is None or percent >= 100:
        return None
    return max(LEAST_SHARE, percent / 100)
