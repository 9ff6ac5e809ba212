"""The admissions of a pipeline: one for each model at a server whose calls are limited, found by look-up. Routes of one
model whose settings are equal share it: their priorities are about one queue."""

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
        self._all: dict[tuple[str, str], dict[str, tuple[Concurrency, Admission]]] = {}
        """By server and model, and by route."""
        self._past: list[Admission] = []
        """Of previous settings: calls in flight or queued there finish there."""
        self._reaper = reaper
        self.deadline = 1e-9
        """When a wait ends, and no later than the next sweep, as calls may have begun to wait by then."""

    def of(self, route: str, server: str, model: str, settings: Concurrency) -> Admission:
        """The admission of a model that `route` sends to `server`."""
        routes = self._all.get((server, model))
        known = routes.get(route) if routes is not None else None
        if known is not None and known[0] == settings:
            return known[1]
        if routes is None:
            if len(self._all) >= MOST:
                self._forget_idle()
            routes = self._all[server, model] = {}
        admission = next((each for others, each in routes.values() if others == settings), None) or self._make(settings)
        if known is not None and known[1].waiting:
            self._past.append(known[1])
        routes[route] = (settings, admission)
        return admission

    def _make(self, settings: Concurrency) -> Admission:
        limit: Limit
        if settings.limit is not None:
            limit = FixedLimit(settings.limit)
        else:
            limit = GradientLimit(settings.initial, settings.min, settings.max)
        self._reaper.add(self)
        return Admission(limit, settings.queue, settings.queue_timeout)

    def _forget_idle(self) -> None:
        for key, routes in list(self._all.items()):
            if not any(each.in_flight or each.waiting for _, each in routes.values()):
                del self._all[key]

    def rows(self) -> list[tuple[str, str, Admission]]:
        """Route, model and admission, for metrics: of routes that share one, the one that was the first to ask."""
        found: dict[Admission, tuple[str, str]] = {}
        for (_, model), routes in self._all.items():
            for route, (_, admission) in routes.items():
                found.setdefault(admission, (route, model))
        return [(route, model, admission) for admission, (route, model) in found.items()]

    def expire(self, now: float) -> None:
        """Reject calls that have waited too long (`reaper.Expirable`)."""
        queued = [each for routes in self._all.values() for _, each in routes.values() if each.waiting] + self._past
        for admission in queued:
            admission.expire(now)
        self.deadline = min([now + self._reaper.period, *(each.next_expiry for each in queued)])
        if self._past:
            self._past = [each for each in self._past if each.waiting]
