"""The one door through which the proxy tells what happened: `observer(exchange)`, once, after the last byte."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from meshproxy.proxy.exchange import Exchange
from meshproxy.telemetry.catalogue import Metrics

Sink = Callable[[Exchange], None]
"""Something that reads exchanges that are over: the metrics, a log, the audit trail, spans."""

SECONDS_BETWEEN_MESSAGES = 60.0

logger = logging.getLogger(__name__)


class Observer:
    """Shows every exchange that is over to each sink, in their order.

    A sink that fails is counted, and said in the application's log once a minute; neither the other sinks nor the data
    path notice.

    Args:
        metrics: where failures are counted.
        sinks: who is shown the exchanges, `metrics.observe` among them.
        clock: seconds, for the time between two messages.
    """

    def __init__(self, metrics: Metrics, sinks: Iterable[Sink], clock: Callable[[], float] = time.monotonic) -> None:
        self._sinks = tuple(sinks)
        self._failures = metrics.telemetry_failures
        self._clock = clock
        self._said: dict[str, float] = {}

    def __call__(self, exchange: Exchange) -> None:
        """Show it to everyone. Never raises."""
        for sink in self._sinks:
            try:
                sink(exchange)
            except Exception as error:
                self._report(sink, error)

    def _report(self, sink: Sink, error: Exception) -> None:
        # A method's or a function's own name, or the class of an object that is called.
        name = getattr(sink, "__qualname__", type(sink).__name__)
        self._failures.labels(name).value += 1
        now = self._clock()
        if now - self._said.get(name, -SECONDS_BETWEEN_MESSAGES) >= SECONDS_BETWEEN_MESSAGES:
            self._said[name] = now
            logger.error("%s could not record an exchange", name, exc_info=error)
