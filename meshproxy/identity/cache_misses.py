"""How warm the caches of tokens and decisions are."""

from __future__ import annotations

import msgspec


class CacheMisses(msgspec.Struct):
    """How often something was worked out because it was not remembered; one for the process, as a reload makes new
    caches. Only misses are counted: a hit costs nothing, and is every request beside them."""

    tokens: int = 0
    """Tokens that were verified, with their signature (`tokens.TokenVerifier`), the refused ones as well."""
    decisions: int = 0
    """Decisions that were made (`policy.decide.Policy`)."""
