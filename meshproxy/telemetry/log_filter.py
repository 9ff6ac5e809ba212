"""Which requests have a line in the access log."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from meshproxy.config.globs import AnyOf
from meshproxy.telemetry.call_facts import any_model
from meshproxy.telemetry.sampling import Sampler, is_kept

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.config.telemetry import AccessLogLines
    from meshproxy.proxy.exchange import Exchange


class LogFilter:
    """Decides for finished exchanges.

    Args:
        settings: what has a line.
        draw: a number from 0 up to 1, for requests without a trace.
    """

    def __init__(self, settings: AccessLogLines, draw: Callable[[], float] = random.random) -> None:
        self._ratio = settings.ratio
        self._sampler = Sampler(settings.ratio)
        self._keep = settings.keep
        self._models = AnyOf(settings.models) if settings.models else None
        """Whose requests have a line; None: those of all."""
        self._draw = draw

    def __call__(self, exchange: Exchange) -> bool:
        """Whether it has a line."""
        models = self._models
        if models is not None and not any_model(exchange, lambda model: models[model.name]):
            return False
        trace = exchange.trace
        is_sampled = self._draw() < self._ratio if trace is None else self._sampler.decide(trace.trace_id, None)
        return is_sampled or is_kept(exchange, self._keep)
