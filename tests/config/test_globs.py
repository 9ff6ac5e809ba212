"""Globs over model names, against a matcher that is too simple to be wrong."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.globs import Patterns, compile_glob, is_literal, specificity
from meshproxy.config.values import GLOB_STARS


def naive(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(naive(pattern[1:], name[start:]) for start in range(len(name) + 1))
    return bool(name) and pattern[0] in ("?", name[0]) and naive(pattern[1:], name[1:])


@given(st.text("ab*?.[\n", max_size=8), st.text("ab*.[]\n", max_size=8))
def test_globs_match_as_they_read(pattern: str, name: str) -> None:
    assert bool(compile_glob(pattern)(name)) == naive(pattern, name)


@pytest.mark.parametrize("name", ["a.b", "a*b", "a[bc]", "a\\b", "a+b", "^a$", "a|b", "(a)"])
def test_what_is_special_elsewhere_stands_for_itself(name: str) -> None:
    """CVE-2020-16844, CVE-2026-39350: an unescaped dot, a suffix that never matches."""
    assert compile_glob(name)(name)
    assert not compile_glob(name.replace("*", "."))("axb")
    assert compile_glob("*" + name)("x" + name)


def test_case_matters() -> None:
    assert not compile_glob("fin*")("FINANCE")


def test_a_hostile_name_costs_little() -> None:
    matches = compile_glob("*a" * GLOB_STARS + "*b")
    name = "a" * 8_192
    begun = time.process_time()
    assert not matches(name)
    # About a millisecond; with backtracking it would be years.
    assert time.process_time() - begun < 1.0


def test_what_is_literal() -> None:
    assert is_literal("a[b].c")
    assert not is_literal("a*")
    assert not is_literal("a?")


def test_the_more_is_fixed_the_more_specific() -> None:
    ordered = ["*", "a*", "a?*", "ab*", "abc?", "abc"]
    assert sorted(["abc", "*", "ab*", "a?*", "abc?", "a*"], key=specificity) == ordered


@given(
    st.lists(st.text("ab*?", min_size=1, max_size=5), unique=True, max_size=12), st.lists(st.text("ab*", max_size=7))
)
def test_what_is_said_about_a_name_is_what_each_matching_pattern_says(patterns: list[str], names: list[str]) -> None:
    table = Patterns({pattern: pattern for pattern in patterns})
    for name in names:
        assert sorted(table.about(name)) == sorted(pattern for pattern in patterns if naive(pattern, name))


def test_heads_and_tails() -> None:
    """Heads that are heads of each other, and tails; what neither head nor tail tells apart is tried."""
    patterns = ["a*", "ab*", "abc?", "b*", *(f"ab{number}-*" for number in range(1_000)), "*-prod", "*", "?-*"]
    table = Patterns(dict(zip(patterns, patterns, strict=True)))
    assert sorted(table.about("ab7-prod")) == ["*", "*-prod", "a*", "ab*", "ab7-*"]
    assert table.about("abc") == ["ab*", "a*", "*"]
    assert table.about("") == ["*"]
