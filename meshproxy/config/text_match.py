"""`TextMatch` compiled: what a header or a claim must be like."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshproxy.config.fields import TextMatch


def compile_text(match: str | TextMatch) -> Callable[[str | None], bool]:
    """A predicate over a text, or None where there is none: only `present: false` is true of that."""
    if isinstance(match, str):
        return lambda text: text == match
    if match.present is not None:
        is_wanted = match.present
        return lambda text: (text is not None) is is_wanted
    if match.regex is not None:
        from meshproxy.config.regex import compile_regex  # few documents have one

        fits = compile_regex(match.regex).fits
        return lambda text: text is not None and fits(text)
    if match.prefix is not None:
        prefix = match.prefix
        return lambda text: text is not None and text.startswith(prefix)
    if match.suffix is not None:
        suffix = match.suffix
        return lambda text: text is not None and text.endswith(suffix)
    if match.contains is not None:
        part = match.contains
        return lambda text: text is not None and part in text
    exact = match.exact
    return lambda text: text == exact
