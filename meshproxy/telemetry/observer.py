"""The one path from the proxy to telemetry: `observer(exchange)`, once per exchange, after its last byte."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from meshproxy.proxy.exchange import Exchange
from meshproxy.telemetry.metrics import Counter

Sink = Callable[[Exchange], None]
"""A consumer of completed exchanges: metrics, access log, audit log, spans."""

SECONDS_BETWEEN_MESSAGES = 60.0

logger = logging.getLogger(__name__)


class Observer:
    """Passes each completed exchange to every sink, in order.

    A sink that raises is counted, and logged at most once a minute; neither the other sinks nor the data path are
    affected.

    Args:
        failures: counts by the name of the sink.
        sinks: the consumers.
        clock: seconds; spaces the log messages.
    """

    def __init__(self, failures: Counter, sinks: Iterable[Sink], clock: Callable[[], float] = time.monotonic) -> None:
        self._sinks = self._lasting = tuple(sinks)
        """All sinks, and those that are not there for a while only. Without guests both are the same object."""
        self._guests: tuple[Sink, ...] = ()
        self._failures = failures
        self._clock = clock
        self._logged: dict[str, float] = {}

    def __call__(self, exchange: Exchange) -> None:
        """Pass one exchange on. Never raises."""
        for sink in self._sinks:
            try:
                sink(exchange)
            except Exception as error:
                self._report(sink, error)

    def repeat(self, exchange: Exchange) -> Sink:
        """An observer of exchanges that repeat this one: in nothing do they differ but in times, sizes, ids and trace.
        All of them go in one step (`proxy.express`): what is sent is sent when it is `decided`, and what is answered
        has been answered whole at its `first_byte`, so that `time_split` has no other part but those before, between
        and behind. Sinks that have a method `repeat` prepare what stays the same; it returns None if there is nothing
        to do."""
        sinks = self._lasting
        prepared = []
        for sink in sinks:
            prepare = getattr(getattr(sink, "__self__", sink), "repeat", None)
            made: Sink | None = sink if prepare is None else prepare(exchange)
            if made is not None:
                prepared.append((made, sink))

        def observe(exchange: Exchange) -> None:
            if self._sinks is not sinks:
                self(exchange)
                return
            for made, sink in prepared:
                try:
                    made(exchange)
                except Exception as error:
                    self._report(sink, error)

        return observe

    def add(self, sink: Sink) -> None:
        """Another consumer, from the next exchange on."""
        self._use((*self._lasting, sink), self._guests)

    def remove(self, sink: Sink) -> None:
        """One consumer less."""
        self._use(tuple(each for each in self._lasting if each != sink), self._guests)

    def admit(self, guest: Sink) -> None:
        """Another consumer for a while: what is prepared for the others is kept, and used again when it has left."""
        self._use(self._lasting, (*self._guests, guest))

    def dismiss(self, guest: Sink) -> None:
        """It has left."""
        self._use(self._lasting, tuple(each for each in self._guests if each != guest))

    def _use(self, lasting: tuple[Sink, ...], guests: tuple[Sink, ...]) -> None:
        self._lasting, self._guests = lasting, guests
        self._sinks = (*lasting, *guests) if guests else lasting

    def _report(self, sink: Sink, error: Exception) -> None:
        # The qualified name of a method or function, or the class of a callable object.
        name = getattr(sink, "__qualname__", type(sink).__name__)
        self._failures.labels(name).value += 1
        now = self._clock()
        if now - self._logged.get(name, -SECONDS_BETWEEN_MESSAGES) >= SECONDS_BETWEEN_MESSAGES:
            self._logged[name] = now
            logger.error("internal error in %s: an exchange was not recorded", name, exc_info=error)
