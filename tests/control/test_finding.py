"""What findings say."""

from __future__ import annotations

import pytest

from meshproxy.control.finding import Finding, agreeing_clocks, judged, some, worst
from meshproxy.control.fleet import Level


def test_a_problem_makes_the_level() -> None:
    assert judged("a", "b", "", "hint") == Finding("a", "b")
    assert judged("a", "b", "it is not", "hint") == Finding("a", "b", Level.ERROR, "it is not", "hint")


def test_the_worst() -> None:
    assert worst([]) is Level.WELL
    assert worst([Finding("a", "b"), Finding("a", "c", Level.WARNING, "x", "y")]) is Level.WARNING


@pytest.mark.parametrize(
    ("ahead", "level", "problem"),
    [
        (29.9, Level.WELL, ""),
        (30.0, Level.WARNING, "it is 30s ahead of this host's"),
        (-299.0, Level.WARNING, "it is 4m 59s behind this host's"),
        (300.0, Level.ERROR, "it is 5m ahead of this host's"),
    ],
)
def test_clocks(ahead: float, level: Level, problem: str) -> None:
    found = agreeing_clocks("a", "its clock agrees", ahead)
    assert (found.level, found.problem, bool(found.hint)) == (level, problem, level is not Level.WELL)


def test_three_are_named() -> None:
    assert some(["a", "b", "c"]) == "a; b; c"
    assert some("abcde") == "a; b; c; and 2 more"
