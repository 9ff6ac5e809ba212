"""One process that serves models, and what is known of it: its connections, its load, whether it is worth a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.upstream.breaker import Breaker
from meshproxy.upstream.ejection import Record
from meshproxy.upstream.load import Load

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.routing.failure import Failure
    from meshproxy.upstream.breaker import BreakerSettings, State
    from meshproxy.upstream.health import Health
    from meshproxy.upstream.pool import H1Pool, H2Pool

MODEL_BREAKERS = 1_024
"""Models of one endpoint whose failures are remembered: callers choose names."""


class Probe:
    """What a call holds of breakers that were not closed when it began: their tokens (`Breaker.begin`)."""

    __slots__ = ("endpoint", "model")

    def __init__(self, endpoint: int, model: int) -> None:
        self.endpoint = endpoint
        self.model = model


class Endpoint:
    """An endpoint. Whoever makes a call asks `allows`, says `begin`, and when it is over `succeeded`, `failed` or
    `cancelled`, once."""

    __slots__ = (
        "_draw",
        "_models",
        "_on_change",
        "_settings",
        "breaker",
        "grpc",
        "health",
        "is_ejected",
        "is_sidecar",
        "key",
        "load",
        "locality",
        "record",
        "rest",
    )

    def __init__(
        self,
        key: str,
        locality: str,
        rest: H1Pool | H2Pool | None,
        grpc: H2Pool | None,
        settings: BreakerSettings | None,
        draw: Callable[[], float],
        on_change: Callable[[str, str, State, State], None],
    ) -> None:
        """
        Args:
            key: its address; both, where REST and gRPC have one each.
            rest: connections for REST calls; the same as `grpc` where it is reached through its sidecar.
            settings: of its breakers; None: there are none.
            draw: chance, from 0 to 1.
            on_change: told model (empty: whatever the model), endpoint, old and new state of a breaker.
        """
        self.key = key
        self.locality = locality
        self.rest = rest
        self.grpc = grpc
        self.is_sidecar = rest is grpc
        """Another sidecar answers there: its refusals are to be believed."""
        self.load = Load()
        self.record = Record()
        self.health: Health | None = None
        self.is_ejected = False
        self._settings = settings
        self._draw = draw
        self._on_change = on_change
        self.breaker: Breaker | None = self._make_breaker("") if settings is not None else None
        self._models: dict[str, Breaker] = {}
        """Breakers of models that have failed."""

    def _make_breaker(self, model: str) -> Breaker:
        assert self._settings is not None
        breaker = Breaker(self._settings, self._draw)
        breaker.on_change = lambda old, new: self._on_change(model, self.key, old, new)
        return breaker

    def allows(self, model: str, now: float) -> bool:
        """Whether a call of this model may go there now."""
        breaker = self.breaker
        if breaker is not None and not breaker.is_closed and not breaker.allows(now):
            return False
        if self._models and (failing := self._models.get(model)) is not None and not failing.allows(now):
            return False
        return self.health is None or self.health.allows(model)

    def begin(self, model: str, now: float) -> Probe | None:
        """A call begins. Keep what is returned until it is over."""
        self.load.start()
        breaker = self.breaker
        first = 0 if breaker is None or breaker.is_closed else breaker.begin(now)
        second = 0
        if self._models and (failing := self._models.get(model)) is not None and not failing.is_closed:
            second = failing.begin(now)
        return Probe(first, second) if first or second else None

    def succeeded(self, model: str, seconds: float, now: float, probe: Probe | None) -> None:
        """A call was answered, `seconds` after it was sent."""
        self.load.finish(seconds, now)
        self.record.calls += 1
        breaker = self.breaker
        if breaker is not None:
            breaker.succeeded(probe.endpoint if probe is not None else 0, now)
            if self._models and (failing := self._models.get(model)) is not None:
                failing.succeeded(probe.model if probe is not None else 0, now)

    def failed(self, model: str, failure: Failure, now: float, probe: Probe | None) -> None:
        """A call failed. Who is to blame decides which breaker hears of it: the endpoint for what has nothing to do
        with the model, the model on this endpoint for an answer. An answer is a sign of life, too."""
        breaker = self.breaker
        token = probe.endpoint if probe is not None else 0
        if failure.is_of_endpoint:
            self.load.failed(now)
            self.record.calls += 1
            self.record.failures += 1
            if breaker is not None:
                breaker.failed(token, now)
                self._forgive_probe(model, probe, now)
        elif failure.is_of_model:
            self.load.failed(now)
            self.record.calls += 1
            self.record.failures += 1
            if breaker is not None:
                breaker.succeeded(token, now)
                self._breaker_of(model).failed(probe.model if probe is not None else 0, now)
        else:
            # Too much to do, or on its way out: no fault, but others are to get the calls. How fast it is, it did not say.
            self.load.failed(now)
            if breaker is not None:
                breaker.cancelled(token, now)
                self._forgive_probe(model, probe, now)

    def cancelled(self, model: str, now: float, probe: Probe | None) -> None:
        """A call was given up by whoever made it: nobody knows how it would have gone."""
        self.load.cancel()
        if probe is not None and self.breaker is not None:
            self.breaker.cancelled(probe.endpoint, now)
            self._forgive_probe(model, probe, now)

    def _forgive_probe(self, model: str, probe: Probe | None, now: float) -> None:
        if probe is not None and probe.model and (failing := self._models.get(model)) is not None:
            failing.cancelled(probe.model, now)

    def _breaker_of(self, model: str) -> Breaker:
        breaker = self._models.get(model)
        if breaker is None:
            if len(self._models) >= MODEL_BREAKERS:
                self._forget_closed()
            breaker = self._models[model] = self._make_breaker(model)
        return breaker

    def _forget_closed(self) -> None:
        """Make room: closed breakers first, then whichever is oldest."""
        for model in [name for name, breaker in self._models.items() if breaker.is_closed]:
            del self._models[model]
        if len(self._models) >= MODEL_BREAKERS:
            del self._models[next(iter(self._models))]

    def retry_at(self, model: str) -> float:
        """When a breaker that keeps calls of this model away lets the next one through; 0.0: none does."""
        failing = self._models.get(model)
        return max(self.breaker.retry_at if self.breaker is not None else 0.0, failing.retry_at if failing else 0.0)

    def hasten(self, model: str, now: float) -> bool:
        """Let a single call through although it is not time yet, unless one is under way. Returns whether it may."""
        for breaker in (self.breaker, self._models.get(model)):
            if breaker is not None and breaker.retry_at > now:
                breaker.retry_at = now
        return self.allows(model, now)

    def states(self) -> list[tuple[str, State]]:
        """Of every breaker there is, by its model; the endpoint's own has an empty name."""
        if self.breaker is None:
            return []
        return [("", self.breaker.state)] + [(model, breaker.state) for model, breaker in self._models.items()]

    def close(self) -> None:
        """It is not among the endpoints any more: what is under way there is finished, nothing new begins."""
        for pool in {self.rest, self.grpc}:
            if pool is not None:
                pool.close()
