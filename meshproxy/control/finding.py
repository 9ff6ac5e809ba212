"""What a check finds, and how it is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshproxy.control.fleet import Level
from meshproxy.telemetry.timestamps import duration

if TYPE_CHECKING:
    from collections.abc import Iterable

CLOCK_WARNING = 30.0
CLOCK_ERROR = 300.0
"""Seconds. Certificates are valid from ten minutes before they are issued; tokens have less."""
NAMED = 3
"""Sidecars, problems and the like that one finding names."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        section: what it is about.
        check: what should be so.
        level: whether it is.
        problem: in what way it is not; empty if it is.
        hint: what to do next.
    """

    section: str
    check: str
    level: Level = Level.WELL
    problem: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A fact that could not be found out.

    Attributes:
        why: what the API server has answered, or that it has not.
    """

    why: str


def worst(findings: Iterable[Finding]) -> Level:
    """The level of the worst finding."""
    return max((finding.level for finding in findings), default=Level.WELL)


def judged(section: str, check: str, problem: str, hint: str, level: Level = Level.ERROR) -> Finding:
    """The result of a check: all is well if there is no problem."""
    return Finding(section, check, level, problem, hint) if problem else Finding(section, check)


def agreeing_clocks(section: str, check: str, ahead: float) -> Finding:
    """Whether a clock agrees with this host's.

    Args:
        section: of the finding.
        check: what is said of it.
        ahead: seconds by which it is ahead.
    """
    if abs(ahead) < CLOCK_WARNING:
        return Finding(section, check)
    problem = f"it is {duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} this host's"
    level = Level.ERROR if abs(ahead) >= CLOCK_ERROR else Level.WARNING
    return Finding(section, check, level, problem, "synchronise both: timedatectl status, chronyc tracking")


def some(texts: Iterable[str]) -> str:
    """The first of them, and how many more there are."""
    first: list[str] = []
    more = 0
    for text in texts:
        if len(first) < NAMED:
            first.append(text)
        else:
            more += 1
    return "; ".join(first) + (f"; and {more} more" if more else "")
