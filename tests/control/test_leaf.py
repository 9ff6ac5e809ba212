"""A certificate that is out."""

from __future__ import annotations

import pytest

from meshproxy.control.leaf import Leaf, is_name
from meshproxy.control_api import leaf_name

NAME = leaf_name(b"der", 1_000_000_000.7)


def test_its_name_says_when_it_expires() -> None:
    leaf = Leaf(NAME, "spiffe://m.example/ns/a/sa/b", "a1")
    assert leaf.not_after == 1_000_000_000.0
    # To the end of the second: names have no fractions.
    assert leaf.is_valid(1_000_000_000.9)
    assert not leaf.is_valid(1_000_000_001.0)


@pytest.mark.parametrize("text", ["", "1-ab", "../1-" + "a" * 32, "1-" + "A" * 32, "1-" + "a" * 32 + "\n", "x"])
def test_names_that_are_none(text: str) -> None:
    assert is_name(NAME)
    assert not is_name(text)
