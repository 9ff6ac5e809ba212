"""One model server process: its connections, load, breakers and health."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.routing.failure import Failure
from meshproxy.upstream.breaker import Breaker
from meshproxy.upstream.ejection import Record
from meshproxy.upstream.peak_ewma import FIRST_SHARE, PeakEwma
from meshproxy.upstream.sidecar_pool import SidecarPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.config.servers import BreakerSettings
    from meshproxy.upstream.breaker import State
    from meshproxy.upstream.health import Health
    from meshproxy.upstream.pool import H1Pool, H2Pool

MODEL_BREAKERS = 1_024
"""Models of one endpoint with a breaker; bounded, as callers choose the names."""


_TOKEN = 0xFFFFFFFF


class Endpoint:
    """An endpoint. Each call is `begin` if `allows` is true, and ends with one of `succeeded`, `failed` and
    `cancelled`.

    What `begin` returns holds the tokens of both breakers that the call began with (`Breaker.token`): what ends in
    another state than it began in, such as a call that times out after its endpoint has come back, counts for nothing.
    One number, so that the usual call allocates nothing: the endpoint's token below, the model's less one above, since
    a model has no breaker before its first failure, and 1 is the token that a new one begins with. The usual call costs
    0.7 us, `allows`, `begin` and `succeeded` together.
    """

    __slots__ = (
        "_draw",
        "_is_unreachable",
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
        "loading",
        "locality",
        "name",
        "record",
        "rest",
        "slow_start",
    )

    def __init__(
        self,
        key: str,
        locality: str,
        rest: H1Pool | None,
        grpc: H2Pool | None,
        settings: BreakerSettings | None,
        draw: Callable[[], float],
        on_change: Callable[[str, str, State, State], None],
    ) -> None:
        """
        Args:
            key: what tells it from others (`discovery.EndpointAddress.key`).
            rest: connections for REST calls.
            grpc: connections for gRPC calls.
            settings: of its breakers; None: it has none.
            draw: a random number from 0 to 1.
            on_change: called with model (empty: the endpoint's breaker), name, old and new state of a breaker.
        """
        self.key = key
        self.name = ",".join(dict.fromkeys(pool.address for pool in (rest, grpc) if pool is not None)) or key
        """In metrics, logs and `/config`: its address as in the access log; both, where REST and gRPC have one each."""
        self.locality = locality
        self.rest = rest
        self.grpc = grpc
        self.is_sidecar = isinstance(rest, SidecarPool)
        """It is another sidecar, whose `x-meshproxy-refusal` is trusted."""
        self.load = PeakEwma()
        self.record = Record()
        self.health: Health | None = None
        self.loading: tuple[str, ...] = ()
        """Models of which it is loading a version, as far as health checks ask."""
        self.is_ejected = False
        self.slow_start = 0.0
        """Seconds of slow start from its first response on; 0.0: it has its full share."""
        self._settings = settings
        self._draw = draw
        self._on_change = on_change
        self.breaker: Breaker | None = self._make_breaker("") if settings is not None else None
        self._models: dict[str, Breaker] = {}
        """Breakers of models that have failed."""
        self._is_unreachable = False
        """The last failure that its breaker counted was a connection that could not be opened."""

    def _make_breaker(self, model: str) -> Breaker:
        assert self._settings is not None
        breaker = Breaker(self._settings, self._draw)
        breaker.on_change = lambda old, new: self._on_change(model, self.name, old, new)
        return breaker

    def allows(self, model: str, now: float) -> bool:
        """Whether a call of this model is allowed now."""
        breaker = self.breaker
        if breaker is not None and not breaker.is_closed and not breaker.allows(now):
            return False
        if self._models and (failing := self._models.get(model)) is not None and not failing.allows(now):
            return False
        return self.health is None or self.health.allows(model)

    def may_answer(self, model: str) -> bool:
        """Whether a call makes sense although a breaker is open, if no other endpoint can be called: connections can
        be opened, and a health check that a document asks for is good. What it answered before may be due to the
        requests of one caller."""
        breaker = self.breaker
        if breaker is not None and not breaker.is_closed and self._is_unreachable:
            return False
        health = self.health
        return health is None or health.is_advisory or health.allows(model)

    def is_clean(self, model: str) -> bool:
        """Whether both breakers are closed and the health check is good."""
        if (self.breaker is not None and not self.breaker.is_closed) or (
            (failing := self._models.get(model)) is not None and not failing.is_closed
        ):
            return False
        return self.health is None or self.health.allows(model)

    def begin(self, model: str, now: float) -> int:
        """Begin a call. Pass the result to the method that ends it."""
        self.load.in_flight += 1  # `start`, without its call
        breaker = self.breaker
        if breaker is None:
            return 0
        token = breaker.token if breaker.is_closed else breaker.begin(now) & _TOKEN
        if self._models and (failing := self._models.get(model)) is not None:
            return (((failing.token if failing.is_closed else failing.begin(now)) - 1) << 32) + token
        return token

    def succeeded(self, model: str, seconds: float, now: float, token: int) -> None:
        """A call was answered, `seconds` after it was sent."""
        self.load.finish(seconds, now)
        self.record.calls += 1
        if self.slow_start:
            if self.load.share(now) == FIRST_SHARE:  # no health check has said that it is available
                self.load.warm_up(now, self.slow_start)
            self.slow_start = 0.0
        breaker = self.breaker
        if breaker is not None:
            if not breaker.is_clean:
                breaker.succeeded(token & _TOKEN, now)
            if self._models and (failing := self._models.get(model)) is not None:
                failing.succeeded((token >> 32) + 1, now)

    def failed(
        self, model: str, failure: Failure, now: float, token: int, is_slow: bool = False, silence: float = 0.0
    ) -> None:
        """A call failed. Failures independent of the model count for the endpoint's breaker; failed answers count for
        the model's, and as a success for the endpoint's. A failed answer of a call without a model counts only as
        that. Only connections that are refused are beyond doubt: everything else may be due to the request, or to more
        work than the endpoint has time for.

        Args:
            is_slow: the connection was not refused, but not accepted in time.
            silence: seconds without a response that did not begin; 0.0 if it failed otherwise.
        """
        self.load.failed(now, silence)
        is_of_endpoint = failure.is_of_endpoint
        is_of_model = failure.is_of_model
        if is_of_endpoint or is_of_model:
            self.record.calls += 1
            self.record.failures += 1
        breaker = self.breaker
        if breaker is None:
            return
        if is_of_endpoint:
            self._is_unreachable = failure is Failure.CONNECT
            breaker.failed(token & _TOKEN, now, at_once=self._is_unreachable and not is_slow)
        elif is_of_model:
            breaker.succeeded(token & _TOKEN, now)
            if model:
                self._breaker_of(model).failed((token >> 32) + 1, now, at_once=False)
            return
        else:
            # Overloaded or draining: not a failure, but the calls should go elsewhere. It says nothing about latency.
            breaker.cancelled(token & _TOKEN, now)
        self._release_probe(model, token, now)

    def cancelled(self, model: str, now: float, token: int, silence: float = 0.0) -> None:
        """The caller cancelled the call: it says nothing about the endpoint, but that its response did not begin in
        `silence` seconds; 0.0 if it did, or the request had not ended."""
        self.load.cancel(silence, now)
        if self.breaker is not None:
            self.breaker.cancelled(token & _TOKEN, now)
            self._release_probe(model, token, now)

    def _release_probe(self, model: str, token: int, now: float) -> None:
        """Of the model nothing was found out: if this was its probe, another may go."""
        if self._models and (failing := self._models.get(model)) is not None:
            failing.cancelled((token >> 32) + 1, now)

    def _breaker_of(self, model: str) -> Breaker:
        breaker = self._models.get(model)
        if breaker is None:
            if len(self._models) >= MODEL_BREAKERS:
                self._forget_closed()
            breaker = self._models[model] = self._make_breaker(model)
        return breaker

    def _forget_closed(self) -> None:
        """Evict: closed breakers first, then the oldest."""
        for model in [name for name, breaker in self._models.items() if breaker.is_closed]:
            del self._models[model]
        if len(self._models) >= MODEL_BREAKERS:
            del self._models[next(iter(self._models))]

    def retry_at(self, model: str) -> float:
        """When a breaker that keeps calls of this model away lets the next one through; 0.0: none does."""
        failing = self._models.get(model)
        return max(self.breaker.retry_at if self.breaker is not None else 0.0, failing.retry_at if failing else 0.0)

    def probe_now(self, model: str, now: float) -> bool:
        """Let a single call through before its time, unless one is in flight. Returns whether it may."""
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
        """The endpoint was removed: calls in flight complete, and no new ones begin."""
        for pool in (self.rest, self.grpc):
            if pool is not None:
                pool.close()
