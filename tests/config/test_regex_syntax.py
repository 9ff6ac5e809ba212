"""The syntax of regular expressions: what is read, and what is refused where."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.regex_syntax import NESTING, BadRegex, Characters, Choice, Edge, Repeat, Sequence, parse

A, B = Characters(((97, 97),)), Characters(((98, 98),))


def test_a_tree() -> None:
    assert parse("^a{2,}|(b?)$") == Choice(
        (Sequence((Edge(True), Repeat(A, 2, None))), Sequence((Repeat(B, 0, 1), Edge(False))))
    )
    assert parse("") == Sequence(())


def test_classes_are_ranges() -> None:
    assert parse("[a-c\\n-]") == Characters(((97, 99), (10, 10), (45, 45)))
    assert parse("\\D") == Characters(((0, 0x2F), (0x3A, 0x10FFFF)))
    assert parse("(?i)[a-c]") == Sequence((Sequence(()), Characters(((97, 99), (65, 67)))))


def test_a_negated_class_without_case_has_no_letter_in_either() -> None:
    for expression in ("(?i:[[:^upper:]])", "(?i:[[:^lower:]])", "(?i:[^[:upper:]])"):
        tree = parse(expression)
        assert isinstance(tree, Characters)
        assert not any(low <= ord(letter) <= high for low, high in tree.ranges for letter in "AZaz")


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("a**", "at character 3: one operator repeats another"),
        ("a++", "at character 3: one operator repeats another"),
        ("a{2}{3}", "at character 5: one operator repeats another"),
        ("ab(", 'at character 3: "(" is not closed'),
        ("a)", 'at character 2: ")" closes nothing'),
        ("a[b", 'at character 2: "[" is not closed'),
        ("[]", 'at character 1: "[" is not closed'),
        ("a{", 'at character 2: expected "{2}"'),
        ("a{,3}", 'at character 2: expected "{2}"'),
        ("a{3,2}", "at character 2: the upper number is below the lower one"),
        ("a{1001}", "at character 2: more than 1,000 repetitions"),
        ("*a", 'at character 1: "*" repeats nothing'),
        ("a|?", 'at character 3: "?" repeats nothing'),
        ("a(?i)*", 'at character 6: "*" repeats flags'),
        ("\\", "at character 2: the expression ends too early"),
        ("a\\b", 'at character 2: "\\b" is not supported'),
        ("\\pL", 'at character 1: "\\p" is not supported'),
        ("(a)\\1", 'at character 4: "\\1" is not supported'),
        ("\\é", 'at character 1: "\\é" is not supported'),
        ("\\x4", "at character 1: expected two hex digits"),
        ("\\x{110000}", "at character 1: expected two hex digits"),
        ("(?=a)", "at character 1: only (?:...)"),
        ("(?m)a", "at character 1: only (?:...)"),
        ("(?>a)", "at character 1: only (?:...)"),
        ("[b-a]", "at character 2: not a range of characters"),
        ("[a-\\d]", "at character 2: not a range of characters"),
        ("[\\d-z]", "at character 2: not a range of characters"),
        ("[a-", "at character 2: not a range of characters"),
        ("[[:nope:]]", 'at character 2: there is no class "[:nope:]"'),
        ("(" * (NESTING + 1), f"at character {NESTING + 1}: more than {NESTING} groups within each other"),
    ],
)
def test_what_is_refused_says_where(expression: str, why: str) -> None:
    with pytest.raises(BadRegex) as refused:
        parse(expression)
    assert str(refused.value).startswith(why)


@given(st.text("ab()[]{}?*+|\\^$-,:1idsPQE<>.x", max_size=20))
def test_nothing_else_is_raised(expression: str) -> None:
    with suppress(BadRegex):
        parse(expression)
