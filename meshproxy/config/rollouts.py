"""`ModelRollout`: a new version takes traffic step by step, is compared with the stable one, and is promoted or rolled
back.

Words of Flagger's `analysis` mean here what they mean there. Units are Flagger's, too: percent and milliseconds.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from meshproxy.config.fields import (
    API_VERSION,
    Count,
    Duration,
    DurationOrZero,
    Metadata,
    ModelName,
    Name,
    Part,
    Path,
    Ratio,
    Text,
    Url,
    Version,
    one_of,
)
from meshproxy.config.routes import Direction
from meshproxy.config.servers import Key

ModeWord = Literal["sequential", "thresholds"]
MetricWord = Literal[
    "request-success-rate", "request-duration", "example-duration", "not-a-number", "class-distribution",
    "score-distribution", "response-size", "shadow-disagreement",
]  # fmt: skip
HookWord = Literal[
    "confirm-rollout", "pre-rollout", "confirm-traffic-increase", "confirm-promotion", "post-rollout", "event"
]
Share = Annotated[int, Meta(ge=0, le=100)]
"""Percent of calls, a whole number."""

DEFAULT_METRICS: tuple[MetricWord, ...] = ("request-success-rate", "request-duration", "not-a-number")


class Arm(Part, frozen=True):
    """One of the two that are compared: at least one of these fields."""

    version: Version | None = None
    """The model version: the proxy writes it into calls that name neither version nor label."""
    label: Text | None = None
    """The same with a version label, which TensorFlow Serving resolves."""
    server: Name | None = None
    """The name of a ModelServer. Left out: the one that calls go to without the rollout."""
    model: ModelName | None = None
    """Another model, whose name the proxy writes into calls that name neither version nor label."""

    def __post_init__(self) -> None:
        if self.version is not None and self.label is not None:
            raise ValueError("a call names a version or a label, never both")
        if (self.version, self.label, self.server, self.model) == (None, None, None, None):
            raise ValueError('expected "version", "label", "server" or "model"')


class ThresholdRange(Part, frozen=True):
    """Absolute bounds, whatever the stable version does: `min`, `max` or both."""

    min: float | None = None
    """The lowest good value."""
    max: float | None = None
    """The highest good value."""

    def __post_init__(self) -> None:
        if self.min is None and self.max is None:
            raise ValueError('expected "min", "max" or both')
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError('"min" is above "max"')


class Metric(Part, frozen=True):
    """What the candidate is judged by."""

    name: Annotated[MetricWord, one_of(MetricWord)]
    """`request-success-rate`: calls that did not fail by fault of the server, in percent, by gRPC status and by REST
    status. `request-duration`: milliseconds to the answer. `example-duration`: the same divided by the examples of the
    batch. `not-a-number`: answers with a NaN or an infinity, in percent. `class-distribution`: which class has the
    highest score, as population stability index (PSI) against the stable version. `score-distribution`: the scores, as
    PSI. `response-size`: bytes of an answer. `shadow-disagreement`: compared mirrored answers that differ, in
    percent."""
    threshold_range: ThresholdRange | None = None
    """Absolute bounds, checked in every window. Left out: none."""
    quantile: Annotated[float, Meta(ge=0.5, le=0.999)] = 0.99
    """Of `request-duration` and `example-duration`: which quantile is judged."""
    max_increase: Annotated[float, Meta(ge=0.001, le=1_000)] | None = None
    """How much worse than the stable version in the same window is still good: percentage points of a rate, percent of
    a duration or size, PSI of a distribution. Left out: 1 for rates, 10 for durations, 50 for sizes, and 0.25 for
    distributions."""


class Analysis(Part, frozen=True):
    """The steps, and how each window is judged. Too few calls hold the step, and are no reason to go back."""

    interval: Duration = 60.0
    """The length of a window: after each the candidate is judged."""
    mode: Annotated[ModeWord, one_of(ModeWord)] = "sequential"
    """`sequential`: tests that may be looked at after every window without more false alarms. `thresholds`: each window
    by itself, as Flagger does: over its bound is failed."""
    false_alarm: Annotated[float, Meta(ge=0.000_001, le=0.1)] = 0.001
    """`sequential`: how likely a candidate that is as good as the stable version is rolled back, over the whole
    rollout."""
    min_calls: Count = 100
    """How many calls it takes. `sequential`: of each arm in a step, before the step may pass; evidence against the
    candidate counts from the first call. `thresholds`: of the candidate in a window; one with less passes and fails
    nothing."""
    threshold: Count = 5
    """Failed windows until it is rolled back. A sequential test that has decided rolls back at once."""
    step_weight: Annotated[int, Meta(ge=1, le=100)] = 10
    """Percent of calls that each step adds to the candidate."""
    max_weight: Annotated[int, Meta(ge=1, le=100)] = 50
    """The last step: after it the candidate is promoted, and has all calls."""
    step_weights: tuple[Share, ...] = ()
    """The steps, in percent, in place of `stepWeight` and `maxWeight`: `[1, 5, 20, 50]`."""
    step_windows: Count = 1
    """Passed windows in a row that each step takes."""
    metrics: tuple[Metric, ...] = ()
    """What is judged; one that fails is enough. Left out: `request-success-rate`, `request-duration` and
    `not-a-number`."""

    def __post_init__(self) -> None:
        if any(later <= earlier for earlier, later in zip(self.step_weights, self.step_weights[1:], strict=False)):
            raise ValueError('"stepWeights" must increase')
        if self.step_weights and self.step_weights[0] < 1:
            raise ValueError('"stepWeights" begins with 1 or more: a candidate without calls proves nothing')
        if len({metric.name for metric in self.metrics}) < len(self.metrics):
            raise ValueError('"metrics": one is there twice')

    @property
    def judged(self) -> tuple[Metric, ...]:
        """What is judged."""
        return self.metrics or tuple(Metric(name) for name in DEFAULT_METRICS)

    @property
    def weights(self) -> tuple[int, ...]:
        """The steps, in percent."""
        if self.step_weights:
            return self.step_weights
        return (*range(self.step_weight, self.max_weight, self.step_weight), self.max_weight)


class WarmUp(Part, frozen=True):
    """What an arm does at first is not judged: the first calls of a version are slow."""

    calls: Annotated[int, Meta(ge=0, le=1_000_000)] = 20
    """The first calls of each arm at each sidecar do not count. With ten or more, nor do further ones while the second
    half of them is a fifth faster than the half before, up to ten times as many."""
    duration: DurationOrZero = 10.0
    """Nor do those within this time of its first one. A fast kill counts them all."""


class FastKill(Part, frozen=True):
    """When a sidecar gives all calls to the stable version by itself, at once."""

    enabled: bool = True
    """Whether it does."""
    least_share: Ratio = 0.05
    """A smaller share of failed calls of the candidate is no burst, however good the stable version is."""
    ratio: Annotated[float, Meta(ge=1.1, le=1_000)] = 5.0
    """Nor is less than this times the share of the stable version. Seven failures in a row are enough."""


class Rollback(Part, frozen=True):
    """When and how the stable version gets all calls again."""

    automatic: bool = True
    """Roll back when the judge says so. false: hold, and tell. A fast kill and `meshproxy rollout abort` always do."""
    fast_kill: FastKill = FastKill()
    """What a sidecar decides alone."""


class Webhook(Part, frozen=True):
    """An HTTP endpoint that is called, and may decide. POST with a JSON object; retried; 2xx is yes."""

    name: Name
    """For messages."""
    type: Annotated[HookWord, one_of(HookWord)]
    """When. `confirm-rollout`: before the first step, again and again until yes. `pre-rollout`: before the first step;
    no is a failed window. `confirm-traffic-increase`: before each further step. `confirm-promotion`: before the
    promotion. `post-rollout`: when it is over. `event`: told everything, decides nothing."""
    url: Url
    """Called without following redirects."""
    timeout: Annotated[Duration, Meta(le=60)] = 10.0
    """For each try."""
    retries: Annotated[int, Meta(ge=0, le=10)] = 2
    """Further tries, if there is no answer."""
    metadata: Mapping[str, str] = {}
    """Sent along."""
    secret_file: Path | None = None
    """A file at the control plane with a secret: `x-meshproxy-signature: sha256=...` is the HMAC of the body. Left out:
    not signed."""


class RolloutSpec(Part, frozen=True):
    """Which model, which two versions of it, and how the new one proves itself."""

    model: ModelName
    """The model that calls name. Those that name a version or a label keep it, and belong to no arm."""
    stable: Arm
    """What serves calls now, and again after a rollback."""
    candidate: Arm
    """What is to take its place."""
    direction: Direction | None = None
    """Whose sidecars choose: `inbound`, those beside the model server, or `outbound`, those of applications. Left out:
    `outbound` if an arm names a `server`, and `inbound` otherwise."""
    sticky: Key | None = None
    """Calls with the same key stay with one version as long as the weight does not fall below them. Left out: each call
    is random. A rollout judges calls, so a key that few callers share makes it judge few callers."""
    warm_up: WarmUp = WarmUp()
    """What is not judged."""
    analysis: Analysis = Analysis()
    """Steps, windows and metrics."""
    rollback: Rollback = Rollback()
    """How it goes back."""
    progress_deadline: Duration = 600.0
    """How long a step may be held for want of calls until that is an alert. It is never rolled back for that."""
    webhooks: tuple[Webhook, ...] = ()
    """Called at the gates."""
    paused: bool = False
    """The weight stays where it is, and nothing is judged but fast kills."""

    def __post_init__(self) -> None:
        if self.stable == self.candidate:
            raise ValueError('"stable" and "candidate" are the same')
        if self.direction == "inbound" and self.candidate.server is not None:
            raise ValueError('an inbound sidecar has one server: leave "server" out, or choose "direction: outbound"')

    @property
    def revision(self) -> str:
        """Differs when the model or an arm does: 16 hexadecimal digits."""
        arms = msgspec.json.encode((self.model, self.stable, self.candidate))
        return hashlib.sha256(arms).hexdigest()[:16]

    @property
    def chosen_by(self) -> Literal["inbound", "outbound"]:
        """The direction of the sidecars that choose the arm: one only, or shares would multiply."""
        if self.direction is not None:
            return self.direction
        return "outbound" if self.stable.server is not None or self.candidate.server is not None else "inbound"


class ModelRollout(Part, frozen=True, kw_only=True, tag_field="kind", tag="ModelRollout"):
    """A new version of a model takes traffic step by step, beside the stable one.

    The control plane moves the weight and judges. Until it has done so for the first time, and whenever it is in doubt,
    the stable version has all calls. Its state is in the status of the document, and does not follow from the document:
    a change of an arm begins a new rollout.
    """

    api_version: Literal["meshproxy.dev/v1alpha1"] = API_VERSION
    metadata: Metadata
    spec: RolloutSpec
