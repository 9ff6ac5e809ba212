"""Which of several control planes leads: a Lease of Kubernetes (coordination.k8s.io/v1), as client-go elects with it.

Pure state: `election.py` reads and writes the Lease. A leader writes it again every few seconds; whoever has seen it
unchanged for its whole duration takes it over. The API server takes a write only on the version that was read, so of
several that take it over one succeeds.

Two never lead at once (`is_leader`), however long messages take and whatever the wall clocks say, if

- the API server takes one write on each version of an object, which etcd is for;
- clocks of different hosts that count seconds differ by less than a fifth in their rate: a leader stops by itself
  `LEADS` seconds after it *sent* its last successful write, and others wait for `DURATION` seconds after they have
  *received* the result. Times are of a clock that is never set and goes on while the host is suspended.

What a leader does must bear that it is suspended between the question and the act: nobody can help that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

DURATION = 15
"""Seconds for which others leave a Lease alone, in whole seconds (`leaseDurationSeconds`)."""
LEADS = 10.0
"""Seconds from a successful write during which its writer leads."""
RETRY = 2.0
"""Seconds between two attempts."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What is written in the Lease. Its times are for people: nobody compares clocks."""

    holder: str
    """Empty: it was released."""
    duration: int = DURATION
    transitions: int = 0
    """How often it went to another holder."""
    version: str | None = None
    """`resourceVersion`; None: it does not exist yet."""


class Candidate:
    """One control plane that would lead.

    Attributes:
        identity: tells it from all others, also from itself before a restart.
    """

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self._seen: Lease | None = None
        self._seen_at = 0.0
        self._leads_until = float("-inf")

    # Questions

    def is_leader(self, now: float) -> bool:
        """Whether it leads at this moment, so that no other one does."""
        return now < self._leads_until

    @property
    def holder(self) -> str:
        """Who has the Lease, as far as is known; empty if nobody."""
        return self._seen.holder if self._seen is not None else ""

    def proposal(self, now: float) -> Lease | None:
        """What to write on the version that was seen last; None: the Lease is another's."""
        seen = self._seen
        if seen is None:
            return Lease(self.identity)
        if seen.holder == self.identity:
            return replace(seen, duration=DURATION)
        if seen.holder and now < self._seen_at + max(seen.duration, DURATION):
            return None
        return Lease(self.identity, DURATION, seen.transitions + 1, seen.version)

    def release(self, now: float) -> Lease | None:
        """Stop leading; what to write so that another one can begin at once. None: there is nothing to release."""
        is_leader, self._leads_until = self.is_leader(now), float("-inf")
        return replace(self._seen, holder="") if is_leader and self._seen is not None else None

    # What happened

    def saw(self, lease: Lease | None, now: float) -> None:
        """The Lease was read (None: there is none), or a write of it was refused: it is as this says."""
        if lease != self._seen:
            self._seen, self._seen_at = lease, now
        if lease is None or lease.holder != self.identity:
            self._leads_until = float("-inf")

    def wrote(self, lease: Lease, sent_at: float, now: float) -> None:
        """A proposal was taken.

        Args:
            lease: with its new version.
            sent_at: when the write was begun.
            now: when the answer came.
        """
        self._seen, self._seen_at = lease, now
        self._leads_until = sent_at + LEADS
