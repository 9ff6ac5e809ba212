"""Regular expressions by table, against Python's `re` where both mean the same."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.regex import MOST_PLACES, compile_regex
from meshproxy.config.regex_syntax import BadRegex

ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "\\d", "\\.", "(?:)", "^", "$", "\\w", "[a-b\\d]", "é", "[^é]"])
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map("".join),
        st.lists(inner, min_size=1, max_size=3).map("|".join).map("({})".format),
        st.tuples(inner.map("(?:{})".format), st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,2}", "*?"])).map(
            "".join
        ),
        inner.map("(?i:{})".format),
    ),
    max_leaves=8,
)
TEXTS = st.text("ab1.AéZ", max_size=7)


@given(EXPRESSIONS, st.lists(TEXTS, min_size=1, max_size=5))
def test_it_matches_what_re_matches(expression: str, texts: list[str]) -> None:
    ours, theirs = compile_regex(expression), re.compile(expression, re.ASCII)
    for text in texts:
        assert ours.fits(text) is (theirs.fullmatch(text) is not None)


@pytest.mark.parametrize(
    ("expression", "fits", "does_not"),
    [
        ("(^|.*,)canary(,.*|$)", ["canary", "a,canary", "canary,b", "a,canary,b"], ["canaryb", "acanary", ""]),
        ("canary", ["canary"], ["canary ", "a canary", "Canary"]),
        ("(?i)canary-[0-9]+", ["CANARY-1", "canary-22"], ["canary-"]),
        ("v1\\.[0-9]{1,3}", ["v1.0", "v1.999"], ["v1.", "v1x0", "v1.1000"]),
        ("[[:alpha:]_-]+", ["a_B-"], ["a1", ""]),
        ("[[:^digit:]]", ["a", "\n"], ["1"]),
        ("\\Qa.b*\\E", ["a.b*"], ["axb"]),
        ("\\x41\\x{e9}", ["Aé"], ["A"]),
        ("a.b", ["axb", "aéb", "a\U0001f600b"], ["a\nb", "ab"]),
        ("(?s)a.b", ["a\nb"], []),
        ("a(?i)b|c", ["aB", "C"], ["AB"]),
        ("(a(?i)b)c", ["aBc"], ["aBC"]),
        ("[]a^-]+", ["]a^-"], ["b"]),
        ("(?P<name>a)(?<other>b)", ["ab"], []),
        ("\\Aa\\z", ["a"], ["ab"]),
        ("(^a)*b", ["ab", "b"], ["aab"]),
        ("(a$)*", ["a", ""], ["aa"]),
        ("a{0}b", ["b"], ["ab"]),
        ("", [""], ["a"]),
        (".*", ["", "\udcff"], []),
    ],
)
def test_what_matches(expression: str, fits: list[str], does_not: list[str]) -> None:
    regex = compile_regex(expression)
    assert [text for text in fits if not regex.fits(text)] == []
    assert [text for text in does_not if regex.fits(text)] == []


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("a" * (MOST_PLACES + 1), "with its repetitions it has more than 1,000 characters"),
        ("(a{40}){40}", "with its repetitions it has more than 1,000 characters"),
        ("((((){1000}){1000}){1000}){1000}", "with its repetitions it has more than 1,000 characters"),
        (".*a.{20}", "its table would be too large"),
        ("".join(f"[{chr(0x100 + 2 * n)}]" for n in range(400)), "it distinguishes too many characters"),
    ],
)
def test_what_would_be_large_is_refused(expression: str, why: str) -> None:
    with pytest.raises(BadRegex, match=why):
        compile_regex(expression)


@pytest.mark.parametrize("expression", ["(a*)*b", "(a|aa)+b", "(a|a?)+b", "(.*a){9}b", "a*" * 9 + "b"])
def test_a_hostile_text_costs_little(expression: str) -> None:
    regex = compile_regex(expression)
    text = "a" * 65_536
    begun = time.process_time()
    assert not regex.fits(text)
    # 2 ms; `re` would take years.
    assert time.process_time() - begun < 1.0
