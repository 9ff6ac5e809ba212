"""The admissions of a pipeline: one for each model of a route that limits concurrency, found by look-up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.routing.admission import Admission
from meshproxy.routing.concurrency import FixedLimit, GradientLimit, Limit

if TYPE_CHECKING:
    from meshproxy.config.routes import Concurrency
    from meshproxy.transport.reaper import Reaper

MOST = 1_024
"""The maximum number of models with an admission, as callers choose names. Beyond it idle ones are evicted."""


class Admissions:
    """Lives as long as the pipeline: what was learned of a model stays as long as its settings do."""

    def __init__(self, reaper: Reaper) -> None:
        self._all: dict[tuple[str, str, str], tuple[Concurrency, Admission]] = {}
        self._past: list[Admission] = []
        """Of previous settings: calls in flight or queued there finish there."""
        self._reaper = reaper
        self.deadline = 1e-9
        """When a wait ends, and no later than the next sweep, as calls may have begun to wait by then."""

    def of(self, route: str, server: str, model: str, settings: Concurrency) -> Admission:
        """The admission of a model that `route` sends to `server`."""
        key = (route, server, model)
        known = self._all.get(key)
        if known is not None and known[0] == settings:
            return known[1]
        if len(self._all) >= MOST:
            self._forget_idle()
        limit: Limit
        if settings.limit is not None:
            limit = FixedLimit(settings.limit)
        else:
            limit = GradientLimit(settings.initial, settings.min, settings.max)
        admission = Admission(limit, settings.queue, settings.queue_timeout)
        self._reaper.add(self)
        if known is not None and known[1].waiting:
            self._past.append(known[1])
        self._all[key] = (settings, admission)
        return admission

    def _forget_idle(self) -> None:
        for key in [key for key, (_, each) in self._all.items() if not each.in_flight and not each.waiting]:
            del self._all[key]

    def rows(self) -> list[tuple[str, str, Admission]]:
        """Route, model and admission, for metrics."""
        return [(route, model, admission) for (route, _, model), (_, admission) in self._all.items()]

    def expire(self, now: float) -> None:
        """Reject calls that have waited too long (`reaper.Expirable`)."""
        queued = [each for _, each in self._all.values() if each.waiting] + self._past
        for admission in queued:
            admission.expire(now)
        self.deadline = min([now + self._reaper.period, *(each.next_expiry for each in queued)])
        if self._past:
            self._past = [each for each in self._past if each.waiting]
