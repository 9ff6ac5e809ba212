"""Where a call goes: `ModelRoute` documents compiled once, matched once per request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.inference.call import Call


@dataclass(frozen=True, slots=True)
class Route:
    """What was decided about where a call goes."""

    server: str
    """Name of the `ModelServer`."""
    timeout: float | None = None
    """Seconds for the whole exchange; None: as long as it takes."""


class Routes:
    """Routes by model name; calls that none names go to the default."""

    __slots__ = ("_by_model", "_default")

    def __init__(self, default: Route, routes: Sequence[tuple[str, Route]] = ()) -> None:
        self._default = default
        self._by_model = dict(routes)

    def match(self, call: Call) -> Route:
        """The route of the first model that `call` names. MultiInference names one model only (the model server
        insists on it), and a reload concerns the server as a whole."""
        if not self._by_model or not call.models:
            return self._default
        return self._by_model.get(call.models[0].name, self._default)
