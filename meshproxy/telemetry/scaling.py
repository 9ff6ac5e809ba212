"""Scaling signals: how loaded the model server behind this sidecar is, by model, over the last minute.

Three totals that only grow are read now and then, and a signal is the difference of two readings over the time between
them: so it is exact whatever happens between them, and a request pays one addition. The mean concurrency is the time
that requests spent in flight over the length of the window (Little's law).
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING, Any

import msgspec

from meshproxy.telemetry import metric_table
from meshproxy.telemetry.metrics import OTHER, Gauge
from meshproxy.telemetry.model_labels import NONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from meshproxy.proxy.pipeline import Pipeline
    from meshproxy.telemetry.metrics import Registry, Rows
    from meshproxy.telemetry.request_metrics import RequestMetrics

WINDOW = 60.0
"""Seconds of which the signals are means, at most; less in a sidecar that has just started."""
STEP = 5.0
"""Seconds between two readings that are kept: the window is this much shorter at times."""
PERIOD = 1.0
"""Seconds between two looks at the queues, and for which signals are not computed again."""
DIRECTION = "inbound"
MOST_MENTIONED = 500
"""Models that documents mention, up to which those without calls are on the page, too. A page of 700 models holds the
event loop for 4 ms."""
DENIED = frozenset({"401", "403", "UNAUTHENTICATED", "PERMISSION_DENIED"})
"""Codes of calls that are no load: more replicas would refuse them, too."""

_DIRECTION, _MODEL, _CODE, _GRPC_STATUS = (
    metric_table.REQUESTS.labels.index(label) for label in ("direction", "model", "code", "grpc_status")
)


class Signal(msgspec.Struct, frozen=True):
    """The load of one model, or of all."""

    in_flight: int
    """Requests at this moment, with those in the queue."""
    concurrency: float
    """Requests in flight, with those in the queue: the mean over the window."""
    queue_depth: float
    """Requests that the concurrency limit made wait: the mean over the window."""
    request_rate: float
    """Completed requests a second, without those that access control refused."""
    limit: int | None = None
    """The concurrency limit at this moment; None: there is none."""

    @property
    def saturation(self) -> float | None:
        """The share of the limit that is asked for: above 1, requests wait. None without a limit."""
        return self.concurrency / self.limit if self.limit else None

    def __add__(self, other: Signal) -> Signal:
        limits = [each.limit for each in (self, other) if each.limit is not None]
        return Signal(
            self.in_flight + other.in_flight,
            self.concurrency + other.concurrency,
            self.queue_depth + other.queue_depth,
            self.request_rate + other.request_rate,
            sum(limits) if limits else None,
        )

    def document(self) -> dict[str, float]:
        """As a page has it; what is not known is left out, so that nothing scales by it."""
        found: dict[str, float] = {
            "inFlight": self.in_flight,
            "concurrency": round(self.concurrency, 3),
            "queueDepth": round(self.queue_depth, 3),
            "requestRate": round(self.request_rate, 3),
        }
        if self.limit is not None:
            found["limit"] = self.limit
        if (saturation := self.saturation) is not None:
            found["saturation"] = round(saturation, 3)
        return found

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Signal:
        """From a page of a worker."""
        return cls(
            document["inFlight"],
            document["concurrency"],
            document["queueDepth"],
            document["requestRate"],
            document.get("limit"),
        )


IDLE = Signal(0, 0.0, 0.0, 0.0)


class Signals(msgspec.Struct, frozen=True):
    """The load of the model server behind one sidecar."""

    seconds: float
    """The length of the window."""
    models: Mapping[str, Signal]

    def page(self) -> dict[str, object]:
        """What `/scaling` answers: JSON whose numbers are found by a path such as `models.fraud.concurrency`."""
        total = sum(self.models.values(), IDLE)
        # A limit for some of the models says nothing about all of them.
        total = Signal(total.in_flight, total.concurrency, total.queue_depth, total.request_rate)
        return {
            "windowSeconds": round(self.seconds, 3),
            "total": total.document(),
            "models": {model: self.models[model].document() for model in sorted(self.models)},
        }


def add_up(pages: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """One page for several workers, each with its own share of the connections and its own limits."""
    models: dict[str, Signal] = {}
    for page in pages:
        for model, document in page["models"].items():
            models[model] = models.get(model, IDLE) + Signal.read(document)
    return Signals(min(page["windowSeconds"] for page in pages), models).page()


class _Reading(msgspec.Struct, frozen=True):
    """The totals by model at one moment."""

    at: float
    requests: Mapping[str, float]
    flown: Mapping[str, float]
    """Seconds in flight, summed over requests."""
    queued: Mapping[str, float]
    """Seconds in the queue, summed over requests."""


class Scaling:
    """Computes the signals of one pipeline. Watched by the reaper (`reaper.Expirable`).

    Args:
        now: monotonic seconds.
        counted: what requests have added up to.
    """

    def __init__(
        self, registry: Registry, counted: RequestMetrics, pipeline: Pipeline, now: Callable[[], float]
    ) -> None:
        self._counted = counted
        self._pipeline = pipeline
        self._now = now
        self._queued: defaultdict[str, float] = defaultdict(float)
        self._looked = now()
        self._readings: deque[_Reading] = deque([self._read(self._looked)])
        self._signals: Signals | None = None
        self._signals_at = 0.0
        self.deadline = self._looked + PERIOD
        for metric, read in (
            (metric_table.SCALING_CONCURRENCY, lambda signal: signal.concurrency),
            (metric_table.SCALING_QUEUE, lambda signal: signal.queue_depth),
            (metric_table.SCALING_RATE, lambda signal: signal.request_rate),
            (metric_table.SCALING_SATURATION, lambda signal: signal.saturation),
        ):
            Gauge(registry, metric).read_from(self._rows(read))

    def expire(self, now: float) -> None:
        """Look at the queues, and keep a reading now and then."""
        self._look(now)
        self.deadline = now + PERIOD
        if now - self._readings[-1].at >= STEP:
            self._readings.append(self._read(now))
            while self._readings[0].at < now - WINDOW:
                self._readings.popleft()

    def signals(self) -> Signals:
        """Over the last minute, no older than `PERIOD`. Models that were not called have a series of zeros here if
        documents mention them: whoever scales by them must not take that for a failure."""
        now = self._now()
        if self._signals is None or now - self._signals_at >= PERIOD:
            self._look(now)
            first = next((each for each in self._readings if each.at >= now - WINDOW), self._readings[-1])
            self._signals = self._between(first, self._read(now))
            self._signals_at = now
        return self._signals

    def page(self) -> dict[str, object]:
        """What `/scaling` answers."""
        return self.signals().page()

    def _look(self, now: float) -> None:
        """Add up how long requests have waited, taking the queues to have been as they are since the last look."""
        seconds, self._looked = now - self._looked, now
        for _, model, admission in self._pipeline.admissions.rows():
            if admission.waiting:
                self._queued[self._counted.model_labels.name(model)] += admission.waiting * seconds

    def _read(self, now: float) -> _Reading:
        requests: defaultdict[str, float] = defaultdict(float)
        for labels, series in self._counted.total.series.items():
            if labels[_DIRECTION] == DIRECTION and labels[_CODE] not in DENIED and labels[_GRPC_STATUS] not in DENIED:
                requests[labels[_MODEL]] += series.value
        flown: defaultdict[str, float] = defaultdict(float)
        for (direction, model), time in self._counted.in_flight_time.series.items():
            if direction == DIRECTION:
                flown[model] += time.value
        for exchange in self._pipeline.live:
            flown[self._model(exchange)] += now - exchange.started
        return _Reading(now, requests, flown, self._queued.copy())

    def _between(self, first: _Reading, last: _Reading) -> Signals:
        labels = self._counted.model_labels
        in_flight = Counter(self._model(exchange) for exchange in self._pipeline.live)
        limits: Counter[str] = Counter()
        for _, model, admission in self._pipeline.admissions.rows():
            limits[labels.name(model)] += admission.limit.current
        models = (last.requests.keys() | last.flown.keys() | labels.known(MOST_MENTIONED)) - {NONE, OTHER}
        seconds = last.at - first.at

        def mean(total: Callable[[_Reading], Mapping[str, float]], model: str) -> float:
            # Calls that have just been given a series of their own were counted as `_other` before.
            grown = total(last).get(model, 0.0) - total(first).get(model, 0.0)
            return max(0.0, grown) / seconds if seconds > 0.0 else 0.0

        return Signals(
            seconds,
            {
                model: Signal(
                    in_flight[model],
                    mean(lambda reading: reading.flown, model),
                    mean(lambda reading: reading.queued, model),
                    mean(lambda reading: reading.requests, model),
                    limits.get(model),
                )
                for model in models
            },
        )

    def _model(self, exchange: Any) -> str:
        return self._counted.model_labels.read(exchange.forwarded, was_served=False)[0]

    def _rows(self, read: Callable[[Signal], float | None]) -> Callable[[], Rows]:
        """Only of models that have been called: documents may mention thousands."""

        def rows() -> Iterable[tuple[tuple[str, ...], float]]:
            called = {model for (direction, model) in self._counted.in_flight_time.series if direction == DIRECTION}
            for model, signal in sorted(self.signals().models.items()):
                if model in called and (value := read(signal)) is not None:
                    yield (model,), value

        return lambda: list(rows())
