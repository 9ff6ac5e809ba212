"""What a text must be like."""

from __future__ import annotations

import pytest

from meshproxy.config.fields import TextMatch
from meshproxy.config.text_match import compile_text

TEXTS = ["", "canary", "canary-2", "my-canary", "my-canary-2", "Canary"]


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ("canary", ["canary"]),
        (TextMatch(exact="canary"), ["canary"]),
        (TextMatch(prefix="canary"), ["canary", "canary-2"]),
        (TextMatch(suffix="canary"), ["canary", "my-canary"]),
        (TextMatch(contains="canary"), ["canary", "canary-2", "my-canary", "my-canary-2"]),
        (TextMatch(regex="(my-)?canary"), ["canary", "my-canary"]),
        (TextMatch(regex=".*"), TEXTS),
        (TextMatch(present=True), TEXTS),
        (TextMatch(present=False), [None]),
    ],
)
def test_what_fits(match: str | TextMatch, fits: list[str | None]) -> None:
    fitting = compile_text(match)
    assert [text for text in (None, *TEXTS) if fitting(text)] == fits


@pytest.mark.parametrize("fields", [{}, {"prefix": "a", "suffix": "b"}, {"exact": "a", "present": False}])
def test_one_field_is_named(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected one of"):
        TextMatch(**fields)  # type: ignore[arg-type]
