"""Which roles concern a model server that lists its models. Pure.

Its sidecar refuses calls of other models, and takes a call about the server as a whole to be about these. So a role
none of whose rules is about one of them decides nothing there, and a policy without it decides the same
(docs/decisions/0034-roles-narrowed-by-model.md).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from meshproxy.config.globs import compile_glob, is_literal

if TYPE_CHECKING:
    from meshproxy.config.schema import ModelRole


def concerns(role: ModelRole, models: frozenset[str]) -> bool:
    """Whether a rule of the role is about one of the models."""
    return any(
        pattern in models if is_literal(pattern) else _matches(pattern, models)
        for rule in role.spec.rules
        for pattern in rule.models
    )


@lru_cache(maxsize=4_096)
def _matches(pattern: str, models: frozenset[str]) -> bool:
    return any(map(compile_glob(pattern), models))
