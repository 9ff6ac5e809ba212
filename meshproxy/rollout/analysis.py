"""How a rollout is judged, as plain values: what `settings.py` makes of `spec.analysis` and `spec.rollback` of the
document, in shares, ratios and seconds where the document has percent and milliseconds.
"""

from __future__ import annotations

from enum import Enum

import msgspec


class Mode(Enum):
    """How windows are compared; the value is the word of the document."""

    SEQUENTIAL = "sequential"
    """Evidence against the candidate adds up over all windows (`judge`)."""
    THRESHOLDS = "thresholds"
    """`threshold` windows out of range, in a row or not: Flagger's way (`thresholds`)."""


class Limit(msgspec.Struct, frozen=True):
    """What is judged, and in mode `thresholds` its range in one window, in the document's units."""

    name: str
    """Of `config.rollouts.MetricWord`."""
    least: float | None = None
    """Flagger's `thresholdRange`, as the next one."""
    most: float | None = None
    increase: float | None = None
    """How much worse than the stable version in the same window is still good."""
    quantile: float = 0.99
    """Of durations."""


METRICS = (
    "request-success-rate",
    "request-duration",
    "not-a-number",
    "class-distribution",
    "score-distribution",
    "response-size",
    "shadow-disagreement",
)
"""What mode `sequential` can judge by; `example-duration` is what `request-duration` is where calls differ in size."""


class FastKillSettings(msgspec.Struct, frozen=True):
    """When a sidecar takes the candidate out by itself, at once (`fast_kill`)."""

    enabled: bool = True
    least_share: float = 0.05
    """A smaller share of failures is no burst, however good the stable version is."""
    ratio: float = 5.0
    """Nor is less than this times the stable version's share."""
    evidence: float = 16.0
    """Natural logarithm of the odds: 7 failures in a row are enough at the defaults. False alarms at `least_share`
    itself: one in e^16 = 9 million calls at most, far fewer below."""


class Effects(msgspec.Struct, frozen=True):
    """The least differences that matter. What is smaller never rolls back, however certain it is."""

    error_share: float = 0.01
    """The candidate's share of failed calls less the stable version's: a percentage point."""
    input_share: float = 0.01
    """The same of calls that were refused for their input."""
    latency_ratio: float = 1.1
    """A quantile (or the geometric mean) of the latency, to the stable version's."""
    nan_share: float = 0.001
    """The candidate's share of answers with NaN or infinities less the stable version's."""
    psi: float = 0.25
    """Population stability index of classes and scores: above 0.25 is what the field calls a significant shift."""
    size_ratio: float = 1.5
    """The typical size of an answer to the stable version's, or the other way round."""


class Ceilings(msgspec.Struct, frozen=True):
    """Limits of the candidate alone, whatever the stable version does; None: no limit."""

    error_share: float | None = None
    latency: float | None = None
    """Seconds that `latency_quantile` of the calls may take."""
    latency_quantile: float = 0.99
    nan_share: float | None = 0.001
    """Answers with NaN or infinities."""
    disagreement_share: float | None = None
    """Shadow copies whose answer differs from the stable version's by more than the tolerance."""


class Samples(msgspec.Struct, frozen=True):
    """What it takes to say anything."""

    calls: int = 100
    """Of each arm since the step began, before it may pass; of one window, in mode `thresholds`. Evidence against the
    candidate counts from the first call."""


class Analysis(msgspec.Struct, frozen=True):
    """The settings of one rollout."""

    mode: Mode = Mode.SEQUENTIAL
    threshold: int = 5
    """Failed windows until the rollback, in mode `thresholds`."""
    metrics: tuple[Limit, ...] = tuple(Limit(name) for name in METRICS)
    samples: Samples = Samples()
    effects: Effects = Effects()
    ceilings: Ceilings = Ceilings()
    fast_kill: FastKillSettings = FastKillSettings()
    false_rollbacks: float = 0.001
    """The most healthy rollouts that may be rolled back by mode `sequential`, however many windows they have."""
