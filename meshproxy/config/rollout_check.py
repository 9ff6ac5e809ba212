"""What is wrong with a `ModelRollout` because of other documents, apart from names that it refers to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.config.codes import Code
from meshproxy.config.globs import compile_glob
from meshproxy.config.places import find, is_numbered, items, value_at, version_at
from meshproxy.config.values import is_whole_version, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from meshproxy.config.nodes import Node
    from meshproxy.config.places import Located

ARMS = ("stable", "candidate")
PATTERN, SPLITS, ROLLOUT = "pattern", "split", "rollout"
"""What is defined: a pattern and a direction in which a route without matches takes it; the routes of a direction that
have a split, by that; a rollout, by model and direction."""


def chosen_by(rollout: Located) -> str:
    """The direction of the sidecars that choose the arm (`RolloutSpec.chosen_by`)."""
    given = value_at(find(rollout.node, "spec", "direction"))
    if isinstance(given, str):
        return given
    has_server = any(find(rollout.node, "spec", arm, "server") is not None for arm in ARMS)
    return "outbound" if has_server else "inbound"


def check_rollout(
    rollout: Located, look: Callable[[str, Hashable], Sequence[Located]]
) -> Iterator[tuple[Node, str, str, Code]]:
    """A second rollout of its model, routes that split its calls, versions that a server cannot have: each with the
    node, the field, the message and the code."""
    model = find(rollout.node, "spec", "model")
    name, direction = value_at(model), chosen_by(rollout)
    if model is not None and isinstance(name, str):
        first = look(ROLLOUT, (name, direction))[0]
        if first is not rollout:
            message = f"{shown(name)} already has a rollout, {first.label} at {first.place}: finish that one first"
            yield model, "spec.model", message, Code.OVERLAP
        for route in _splitting(name, look(SPLITS, direction), look(PATTERN, (name, direction))):
            message = (
                f"{route.label} at {route.place} has a split for calls of {shown(name)}: the rollout chooses their"
                ' version, so leave "split" out there'
            )
            yield model, "spec.model", message, Code.OVERLAP
    for arm in ARMS:
        version = find(rollout.node, "spec", arm, "version")
        server = value_at(find(rollout.node, "spec", arm, "server"))
        text = version_at(version)
        if version is None or not isinstance(text, str) or is_whole_version(text) or server is None:
            continue
        if is_numbered(look("ModelServer", server)):
            message = (
                f"{shown(text)} is no version of ModelServer/{server}: its health check is model-status, so it is "
                "TensorFlow Serving, whose versions are whole numbers"
            )
            yield version, f"spec.{arm}.version", message, Code.IMPOSSIBLE


def _splitting(model: str, routes: Sequence[Located], named: Sequence[Located]) -> list[Located]:
    """The routes with a split that a call of the model may get.

    Args:
        routes: those with a split.
        named: those that name the model and have no match, which calls get rather than one of a glob.
    """
    found = []
    for route in routes:
        patterns = [item.value for item in items(find(route.node, "spec", "models"))]
        if model in patterns or (
            not named and any(isinstance(each, str) and compile_glob(each)(model) for each in patterns)
        ):
            found.append(route)
    return found
