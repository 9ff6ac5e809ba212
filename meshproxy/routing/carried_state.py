"""What routes have learned, kept when they are compiled anew: a reload must not fill every budget and bucket again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from meshproxy.routing.rate_limit import RateLimiter
from meshproxy.routing.retry import RetryBudget

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from meshproxy.config.routes import RateLimit

State = TypeVar("State", RetryBudget, RateLimiter)


class CarriedState:
    """Budgets and rate_limiters by the names of their routes.

    A set of routes that is compiled asks for what it needs, and gets the object of before where the settings are equal.
    `adopt` says that the set is in use. One that never is changes nothing.
    """

    def __init__(self) -> None:
        self._budgets: _Kept[RetryBudget] = _Kept()
        self._quotas: _Kept[RateLimiter] = _Kept()

    def budget(self, name: str, ratio: float, minimum: float) -> RetryBudget:
        """The retry budget of a route."""
        return self._budgets.get(name, (ratio, minimum), lambda: RetryBudget(ratio, minimum))

    def rate_limiter(self, name: str, index: int, limit: RateLimit) -> RateLimiter:
        """The quota of a route's rate limit.

        Args:
            index: its place among the route's `rateLimits`.
        """
        return self._quotas.get(
            (name, index),
            limit,
            lambda: RateLimiter(limit.per, limit.requests, limit.bytes, limit.examples, limit.burst),
        )

    def adopt(self) -> None:
        """The routes compiled last are in use: what they did not ask for is forgotten."""
        self._budgets.adopt()
        self._quotas.adopt()


class _Kept(Generic[State]):
    """Objects by key, each with the settings that it was made with."""

    def __init__(self) -> None:
        self._current: dict[Hashable, tuple[object, State]] = {}
        self._asked: dict[Hashable, tuple[object, State]] = {}

    def get(self, key: Hashable, settings: object, make: Callable[[], State]) -> State:
        known = self._current.get(key)
        if known is None or known[0] != settings:
            known = (settings, make())
        self._asked[key] = known
        return known[1]

    def adopt(self) -> None:
        self._current, self._asked = self._asked, {}
