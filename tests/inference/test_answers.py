"""The comparison itself, over outputs of any wire surface; `test_tfserving_answers` has it over real answers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from meshproxy.inference.answers import Output, compare_outputs
from meshproxy.inference.fields import Unreadable
from meshproxy.inference.surface import Comparison, Tolerance

ANSWERS: dict[bytes, dict[str, Output]] = {
    b"a": {"y": Output("float", [2, 2], [1.0, 2.0, 4.0, 3.0], [(0, 2), (2, 4)])},
    b"close": {"y": Output("float", [2, 2], [1.0, 2.0, 4.0, 3.1], [(0, 2), (2, 4)])},
    b"turned": {"y": Output("float", [2, 2], [1.0, 2.0, 3.0, 4.0], [(0, 2), (2, 4)])},
    b"shape": {"y": Output("float", [4], [1.0, 2.0, 4.0, 3.0], ())},
    b"kind": {"y": Output("double", [2, 2], [1.0, 2.0, 4.0, 3.0], [(0, 2), (2, 4)])},
    b"name": {"z": Output("float", [2, 2], [1.0, 2.0, 4.0, 3.0], [(0, 2), (2, 4)])},
}


def read(body: bytes) -> Mapping[str, Output]:
    if body not in ANSWERS:
        raise Unreadable("it is none")
    return ANSWERS[body]


@pytest.mark.parametrize(
    ("other", "agrees", "top1_disagrees", "why"),
    [
        (b"a", True, False, ""),
        (b"close", True, False, ""),
        (b"turned", False, True, "numbers differ by up to 1"),
        (b"shape", False, False, "different shapes"),
        (b"kind", False, False, "different types"),
        (b"name", False, False, "different names"),
        (b"x", False, False, "the second answer cannot be read: it is none"),
    ],
)
def test_outputs_are_compared(other: bytes, agrees: bool, top1_disagrees: bool, why: str) -> None:
    found = compare_outputs(b"a", other, read, Tolerance(absolute=0.2))
    assert found is not None
    assert (found.agrees, found.top1_disagrees) == (agrees, top1_disagrees)
    assert why in found.reason


def test_equal_bytes_are_not_read() -> None:
    assert compare_outputs(b"x", b"x", read, Tolerance()) == Comparison(True)
