"""Measures the hop lag of a model server: reads its metrics page at an interval, compares it with the sidecar's own
sums, and raises an alarm when the lag rises."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshproxy.inference.tfserving_metrics import NO_TIME, PageError, TimesReader
from meshproxy.sidecar.server_page import NoPage, endpoints_of, feed, read_page
from meshproxy.telemetry.change_detector import ChangeDetector, State
from meshproxy.telemetry.hop_lag import MOST_SECONDS, PARTS, Doubt, Pairing, Reading
from meshproxy.telemetry.metrics import OTHER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from meshproxy.config.telemetry import ServerMetrics
    from meshproxy.inference.tfserving_metrics import ServerTime
    from meshproxy.telemetry.hop_lag import CallTime
    from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.endpoint import Endpoint

JITTER = 0.1

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Model:
    """What is known of one model."""

    read_at: float
    """When there was a reading, or else since when there was none."""
    pairing: Pairing | None = None
    """None: an interval begins with the next page."""
    detector: ChangeDetector = field(default_factory=ChangeDetector)
    has_others: bool = False
    """The last interval ended with `Doubt.FOREIGN`; logged once."""


class HopWatch:
    """Measures one `ModelServer`.

    Args:
        settings: how often.
        server: the name of the `ModelServer`.
        path: of its page.
        clusters: those in use; a reload may replace them.
        calls: what the sidecar has added up, and who has; raises NoPage.
        read: the page of an endpoint, by its path; raises NoPage.
        draw: a random number from 0 to 1, for the jitter.
        clock: seconds.
    """

    def __init__(
        self,
        settings: ServerMetrics,
        server: str,
        path: str,
        clusters: Callable[[], Sequence[Cluster]],
        calls: Callable[[], Awaitable[tuple[tuple[str, ...], dict[str, CallTime]]]],
        metrics: SidecarMetrics,
        *,
        read: Callable[[Endpoint, bytes], Awaitable[bytes]] | None = None,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._server = server
        self._path = path.encode()
        self._clusters = clusters
        self._metrics = metrics
        self._read_page = read if read is not None else read_page
        self._draw = draw
        self._clock = clock
        self._calls = calls
        self._models: dict[str, _Model] = {}
        self._sources: tuple[tuple[str, ...], ...] = ()
        """Whose sums were added up the last time, on both sides."""
        self._result = "ok"
        """Of the last attempt."""
        self.on_reading: Callable[[str, Reading], None] | None = None

    async def run(self) -> None:
        """Measure until it is cancelled."""
        while True:
            await asyncio.sleep(self._settings.interval * (1 + JITTER * (2 * self._draw() - 1)))
            await self.measure()

    async def measure(self) -> None:
        """Read the page once, and take what there is to be had from it."""
        try:
            endpoints, theirs = await self._read()
            workers, ours = await self._calls()
        except NoPage as problem:
            self._count(problem.result, str(problem))
            return
        except Exception:  # a task that ends with one measures nothing any longer
            self._count("failed", "internal error")
            logger.exception("internal error in reading the metrics page of the model server")
            return
        self._count("ok", "")
        if (endpoints, workers) != self._sources:
            # Sums of other processes, with which nothing can be compared.
            self._sources = endpoints, workers
            for known in self._models.values():
                known.pairing = None
        self._take(ours, theirs, self._clock())

    async def _read(self) -> tuple[tuple[str, ...], dict[str, ServerTime]]:
        """The endpoints and the sum of their pages. Raises NoPage."""
        endpoints = endpoints_of(self._server, self._clusters())
        if not endpoints:
            raise NoPage("failed", "the model server has no endpoints")
        total: dict[str, ServerTime] = {}
        for endpoint in endpoints:
            page = await self._read_page(endpoint, self._path)
            reader = TimesReader()
            try:
                await feed(reader, page)
                times = reader.times()
            except PageError as error:
                raise NoPage("unusable", str(error)) from error
            for model, each in times.items():
                total[model] = total.get(model, NO_TIME) + each
        return tuple(endpoint.key for endpoint in endpoints), total

    def _take(self, ours: dict[str, CallTime], theirs: dict[str, ServerTime], now: float) -> None:
        for name, times in ours.items():
            if self._metrics.requests.model_labels.name(name) == OTHER:
                continue
            model = self._models.setdefault(name, _Model(now))
            if model.pairing is None:
                model.pairing = Pairing(times, theirs.get(name, NO_TIME), now)
                continue
            expected = model.detector.expected
            found = model.pairing.take(
                times, theirs.get(name, NO_TIME), now, expected.level if expected is not None else None
            )
            if isinstance(found, Reading):
                model.read_at = now
                self._show(name, model, found, now)
            elif found is Doubt.FOREIGN:
                self._mistrust(name, model, model.pairing.surplus)
            if now - model.read_at > MOST_SECONDS:
                model.detector = ChangeDetector()
                model.read_at = now
                self._hide(name)

    def _show(self, name: str, model: _Model, reading: Reading, now: float) -> None:
        metrics, detector = self._metrics, model.detector
        if self.on_reading is not None:
            self.on_reading(name, reading)
        if model.has_others:
            model.has_others = False
            logger.info("hop lag is measured again", extra={"fields": {"model": name}})
        metrics.hop_lag.labels(name).value = reading.lag
        for part, share in reading.shares.items():
            metrics.call_time_ratio.labels(name, part).value = share
        before = detector.state
        after = detector.add(reading.lag, reading.whole, now)
        if detector.expected is not None:
            metrics.hop_lag_expected.labels(name).value = detector.expected.level
        metrics.hop_lag_alarm.labels(name).value = int(after is State.RAISED)
        if (before is State.RAISED) is not (after is State.RAISED):
            expected = detector.expected.level if detector.expected is not None else None
            logger.log(
                logging.WARNING if after is State.RAISED else logging.INFO,
                "hop lag has risen" if after is State.RAISED else "hop lag is normal again",
                extra={
                    "fields": {
                        "model": name,
                        "lag_seconds": round(reading.lag, 6),
                        "expected_seconds": round(expected, 6) if expected is not None else None,
                        "server_seconds": round(reading.server, 6),
                        "calls": reading.calls,
                    }
                },
            )

    def _mistrust(self, name: str, model: _Model, surplus: int) -> None:
        """The counts of both sides differ for good."""
        self._metrics.unmatched_calls.labels(name).value += abs(surplus)
        self._metrics.hop_lag.forget((name,))
        for part in PARTS:
            self._metrics.call_time_ratio.forget((name, part))
        if not model.has_others:
            model.has_others = True
            logger.warning(
                "hop lag is not known: the model server has other callers, or does not measure some calls",
                extra={"fields": {"model": name, "surplus": surplus}},
            )

    def _hide(self, name: str) -> None:
        """Nothing is known of this model any longer."""
        metrics = self._metrics
        for gauge in (metrics.hop_lag, metrics.hop_lag_expected, metrics.hop_lag_alarm):
            gauge.forget((name,))
        for part in PARTS:
            metrics.call_time_ratio.forget((name, part))

    def forget(self) -> None:
        """The watch has ended: its series are removed."""
        for name in self._models:
            self._hide(name)

    @property
    def raised(self) -> list[str]:
        """The models whose lag has risen."""
        return sorted(name for name, each in self._models.items() if each.detector.state is State.RAISED)

    def _count(self, result: str, problem: str) -> None:
        """Count an attempt, and log it if it is not like the last one."""
        self._metrics.server_pages.labels(result).value += 1
        if result == self._result:
            return
        self._result = result
        if result == "ok":
            logger.info("the model server's metrics page is read again", extra={"fields": {"server": self._server}})
        else:
            fields = {"server": self._server, "problem": problem}
            logger.warning("the model server's metrics page cannot be used", extra={"fields": fields})
