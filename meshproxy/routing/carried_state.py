"""State of routes that a reload keeps: recompiling routes must not refill every retry budget and token bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from meshproxy.routing.live_split import LiveSplit
from meshproxy.routing.rate_limit import RateLimiter
from meshproxy.routing.retry import RetryBudget

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from meshproxy.config.rollouts import ModelRollout
    from meshproxy.config.routes import RateLimit

State = TypeVar("State", RetryBudget, RateLimiter, LiveSplit)


class CarriedState:
    """Retry budgets and rate limiters by the names of their routes, and the weights of rollouts.

    While routes are compiled they get the existing object where the settings are equal. `adopt` says that the compiled
    routes are in use; routes that are never adopted change nothing.
    """

    def __init__(self) -> None:
        self._budgets: _Kept[RetryBudget] = _Kept()
        self._rate_limiters: _Kept[RateLimiter] = _Kept()
        self._splits: _Kept[LiveSplit] = _Kept()

    def budget(self, name: str, ratio: float, minimum: float) -> RetryBudget:
        """The retry budget of a route."""
        return self._budgets.get(name, (ratio, minimum), lambda: RetryBudget(ratio, minimum))

    def rate_limiter(self, name: str, index: int, limit: RateLimit) -> RateLimiter:
        """The limiter of one `rateLimits` entry of a route.

        Args:
            index: its place among the route's `rateLimits`.
        """
        return self._rate_limiters.get(
            (name, index),
            limit,
            lambda: RateLimiter(limit.per, limit.requests, limit.bytes, limit.examples, limit.burst),
        )

    def live_split(self, rollout: ModelRollout) -> LiveSplit:
        """The arms of a rollout. Other arms begin anew: with the stable version alone."""
        name, spec = rollout.metadata.name, rollout.spec
        return self._splits.get(name, spec.revision, lambda: LiveSplit(name, spec))

    def splits(self) -> list[LiveSplit]:
        """The arms of all rollouts that are in use."""
        return self._splits.all()

    def adopt(self) -> None:
        """The routes compiled last are in use: state that they did not ask for is dropped."""
        self._splits.adopt()
        self._budgets.adopt()
        self._rate_limiters.adopt()


class _Kept(Generic[State]):
    """Objects by key, each with the settings that it was made with."""

    def __init__(self) -> None:
        self._current: dict[Hashable, tuple[object, State]] = {}
        self._asked: dict[Hashable, tuple[object, State]] = {}

    def get(self, key: Hashable, settings: object, make: Callable[[], State]) -> State:
        known = self._current.get(key)
        if known is None or known[0] != settings:
            known = self._asked.get(key)  # several routes may share one
        if known is None or known[0] != settings:
            known = (settings, make())
        self._asked[key] = known
        return known[1]

    def all(self) -> list[State]:
        return [state for _, state in self._current.values()]

    def adopt(self) -> None:
        self._current, self._asked = self._asked, {}
