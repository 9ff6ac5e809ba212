"""How much a run of the tests tries: `make test` less than `make coverage`, which is thorough."""

from __future__ import annotations

import os

IS_THOROUGH = "MESHPROXY_THOROUGH" in os.environ
"""Set by `make coverage`: more examples, and both event loops everywhere."""


def tries(number: int) -> int:
    """What a thorough run is to try, and two fifths of it otherwise."""
    return number if IS_THOROUGH else number * 2 // 5
