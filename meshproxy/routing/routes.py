"""Where a call goes: `ModelRoute` documents compiled once, looked up once per request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshproxy.config.globs import compile_glob, is_literal, specificity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshproxy.config.schema import ModelRoute
    from meshproxy.inference.call import Call

MEMO_ENTRIES = 4_096


@dataclass(frozen=True, slots=True)
class Route:
    """What was decided about where a call goes."""

    server: str
    """Name of the `ModelServer`."""
    timeout: float | None = None
    """Seconds for the whole exchange; None: as long as it takes."""


class Routes:
    """Routes by model name; a name beats a glob, and of two globs the one with more fixed characters wins."""

    __slots__ = ("_default", "_globs", "_known", "_literal")

    def __init__(self, default: Route, patterns: Sequence[tuple[str, Route]] = ()) -> None:
        self._default = default
        self._literal = {pattern: route for pattern, route in patterns if is_literal(pattern)}
        globs = sorted((pair for pair in patterns if not is_literal(pair[0])), key=lambda pair: specificity(pair[0]))
        self._globs: list[tuple[Callable[[str], object], Route]] = [
            (compile_glob(pattern), route) for pattern, route in reversed(globs)
        ]
        self._known: dict[str, Route] = {}
        """Names matched against the globs so far, bounded: the caller chooses them."""

    def match(self, call: Call) -> Route:
        """The route of the first model that `call` names, the default for those that name none. Several models in one
        call are one server's: MultiInference insists on one name, a reload is about the server as a whole."""
        if not call.models or not (self._literal or self._globs):
            return self._default
        name = call.models[0].name
        return self._literal.get(name) or self._known.get(name) or self._look(name)

    def _look(self, name: str) -> Route:
        route = next((route for fits, route in self._globs if fits(name)), self._default)
        if len(self._known) >= MEMO_ENTRIES:
            self._known.clear()
        self._known[name] = route
        return route


def compile_routes(server: str, timeout: float | None, routes: Sequence[ModelRoute]) -> Routes:
    """Compile documents.

    Args:
        server: where models without a route go.
        timeout: seconds that an exchange may take where its route does not say.
    """
    patterns = [
        (pattern, Route(route.spec.server, route.spec.timeout if route.spec.timeout is not None else timeout))
        for route in routes
        for pattern in route.spec.models
    ]
    return Routes(Route(server, timeout), patterns)
