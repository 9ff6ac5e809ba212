"""One probe of a container: when it is due, and what its results come to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshproxy.devtools.node.spec import Container, Probe


class Kind(Enum):
    """What a probe is for."""

    STARTUP = "startup"
    READINESS = "readiness"
    LIVENESS = "liveness"


@dataclass(frozen=True, slots=True)
class Probing:
    """A probe of one run of a container.

    Attributes:
        next_at: when it is due.
        is_running: it is being carried out.
        is_passed: what it says now. None: nothing yet.
        count: results of one kind in a row.
        last: the last one.
    """

    next_at: float
    is_running: bool = False
    is_passed: bool | None = None
    count: int = 0
    last: bool | None = None


def probe_of(container: Container, kind: Kind) -> Probe | None:
    """The probe of this kind; None if the container has none."""
    return {
        Kind.STARTUP: container.startup_probe,
        Kind.READINESS: container.readiness_probe,
        Kind.LIVENESS: container.liveness_probe,
    }[kind]


def took(probing: Probing, probe: Probe, *, is_success: bool, now: float) -> Probing:
    """A result has come. So many in a row as its threshold says change what the probe says."""
    count = probing.count + 1 if probing.last is is_success else 1
    needed = probe.success_threshold if is_success else probe.failure_threshold
    said = is_success if count >= needed else probing.is_passed
    # The time between two is counted from the beginning of the first.
    at = max(now, probing.next_at + probe.period_seconds)
    return replace(probing, next_at=at, is_running=False, is_passed=said, count=count, last=is_success)
