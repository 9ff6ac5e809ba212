"""Log lines that a peer can provoke: each kind once in a while, and all together at a bounded rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.codec.h2.budgets import Budget

if TYPE_CHECKING:
    import logging

PERIOD = 10.0
"""Seconds for which a line with the same key is suppressed."""
RATE = 1.0
BURST = 20
"""Lines a second of all keys together, and at once."""
KEYS = 1_024


class Notices:
    """Decides which log lines about peers are written. `now` is `loop.time()`."""

    __slots__ = ("_budget", "_suppressed", "_written")

    def __init__(self) -> None:
        self._budget = Budget(RATE, BURST, 0.0)
        self._written: dict[str, float] = {}
        """When a line of this key was written last."""
        self._suppressed = 0

    def info(self, logger: logging.Logger, key: str, now: float, message: str) -> None:
        """Log `message` at INFO, unless one with the same key was logged recently, or too many were. The next line
        tells how many were suppressed."""
        if now - self._written.get(key, -PERIOD) < PERIOD or not self._budget.spend(now):
            self._suppressed += 1
            return
        if len(self._written) >= KEYS:
            self._written.clear()
        self._written[key] = now
        suppressed, self._suppressed = self._suppressed, 0
        if suppressed:
            message = f"{message} (lines suppressed before: {suppressed})"
        logger.info("%s", message)
