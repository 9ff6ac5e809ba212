"""Which requests have a line in the access log."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from meshproxy.config.globs import compile_glob
from meshproxy.telemetry.call_facts import any_model
from meshproxy.telemetry.sampling import Sampler, is_kept

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.config.telemetry import AccessLogLines
    from meshproxy.inference.call import ModelRef
    from meshproxy.proxy.exchange import Exchange

MEMO_ENTRIES = 1_024
"""Names of models, which callers choose."""


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
        self._globs = tuple([compile_glob(glob) for glob in settings.models])
        self._names: dict[str, bool] = {}
        """Whether they match one of the globs."""
        self._draw = draw

    def __call__(self, exchange: Exchange) -> bool:
        """Whether it has a line."""
        if self._globs and not any_model(exchange, self._matches):
            return False
        trace = exchange.trace
        is_sampled = self._draw() < self._ratio if trace is None else self._sampler.decide(trace.trace_id, None)
        return is_sampled or is_kept(exchange, self._keep)

    def _matches(self, model: ModelRef) -> bool:
        name = model.name
        known = self._names.get(name)
        if known is None:
            known = any(matches(name) for matches in self._globs)
            if len(self._names) >= MEMO_ENTRIES:
                self._names.clear()
            self._names[name] = known
        return known
