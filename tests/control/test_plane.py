from __future__ import annotations

from meshproxy.control.plane import CLOCKS, SIGNS_ON, Plane


def test_what_it_signs_at_its_last_moment_expires() -> None:
    assert Plane("a", "x", 1_000.0, 60.0).over == 1_000.0 + SIGNS_ON + 60.0 + CLOCKS
