"""When the next certificate is asked for: well before the one in use expires, and again after a failure."""

from __future__ import annotations

from dataclasses import dataclass

RENEW_AT = 2 / 3
"""Of a certificate's life: the last third is for a control plane that is away."""
SPREAD = 0.1
"""Of a certificate's life, earlier at random: sidecars that were started together do not ask together."""
FIRST_RETRY = 1.0
LAST_RETRY = 30.0
"""Seconds until the next attempt after the first failure; doubled up to the latter after each further one."""
RETRIES_LEFT = 20
"""Attempts that fit into what is left of a short life: its retries come faster."""
URGENT = 1 / 6
"""What is left of a certificate's life when its renewal fails loudly."""


@dataclass(slots=True)
class Renewal:
    """The renewal of one certificate.

    Attributes:
        issued: when we got it, seconds since the epoch. (Its notBefore is backdated.)
        not_after: when it expires.
        failures: attempts that failed since.
    """

    issued: float
    not_after: float
    failures: int = 0
    _next: float | None = None

    def wait(self, now: float, jitter: float) -> float:
        """Seconds until the next attempt, 0 if it is due. `jitter`: 0 to 1, drawn anew for each certificate."""
        if self._next is None:
            life = self.not_after - self.issued
            self._next = self.issued + life * (RENEW_AT - SPREAD * jitter)
        return max(0.0, self._next - now)

    def failed(self, now: float, jitter: float) -> float:
        """An attempt has failed: seconds until the next one."""
        delay = min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(self.failures, 10))
        if (left := self.not_after - now) > 0:
            delay = min(delay, max(left / RETRIES_LEFT, FIRST_RETRY / 5))
        delay *= 0.5 + jitter / 2
        self.failures += 1
        self._next = now + delay
        return delay

    def is_urgent(self, now: float) -> bool:
        """Whether so little is left that somebody must look."""
        return self.not_after - now < (self.not_after - self.issued) * URGENT

    def left(self, now: float) -> float:
        """Seconds until the certificate expires; negative since."""
        return self.not_after - now
