"""Conditions on the address and the headers of a request: yes, no, or cannot be evaluated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.events import Headers
from meshproxy.config.fields import ClaimPattern, TextMatch
from meshproxy.policy.conditions import Conditions, exact_values, in_words, reduce_headers

V4, V6 = (4, 0x0A000001), (6, 1)


@pytest.mark.parametrize(
    ("blocks", "not_blocks", "address", "answer"),
    [
        (("10.0.0.0/8",), (), V4, True),
        (("10.0.0.0/8",), (), V6, False),
        (("10.0.0.0/8", "::/0"), (), V6, True),
        (("10.0.0.0/8",), ("10.0.0.1/32",), V4, False),
        ((), ("10.0.0.1/32",), V4, False),
        ((), ("10.0.0.1/32",), V6, True),
        (("10.0.0.0/8",), (), None, None),
        ((), ("10.0.0.0/8",), None, None),
    ],
)
def test_addresses(
    blocks: tuple[str, ...], not_blocks: tuple[str, ...], address: tuple[int, int] | None, answer: bool | None
) -> None:
    assert Conditions(blocks, not_blocks, {}).match(address, ()) is answer


ONE: Headers = ((b"accept", b"*/*"), (b"x-a", b"team-1"))


@pytest.mark.parametrize(
    ("wanted", "headers", "answer"),
    [
        ("team-1", ONE, True),
        ("team-2", ONE, False),
        ("team-1", (), False),
        (TextMatch(prefix="team-"), ONE, True),
        (TextMatch(prefix="other"), ONE, False),
        (TextMatch(regex="team-[0-9]+"), ONE, True),
        (TextMatch(present=True), ONE, True),
        (TextMatch(present=True), (), False),
        (TextMatch(present=False), (), True),
        (TextMatch(present=False), ONE, False),
        (TextMatch(present=True), ONE + ONE, True),
        (TextMatch(present=False), ONE + ONE, False),
        # More than once: also if both are what is wanted, or neither.
        ("team-1", ONE + ONE, None),
        ("team-2", ONE + ONE, None),
        (TextMatch(prefix="team-"), ONE + ONE, None),
        # A spelling that some servers take for the name.
        ("team-1", ((b"x_a", b"team-1"),), None),
        ("team-1", ((b"x_a", b"team-2"),), None),
        ("team-1", (*ONE, (b"x.a", b"team-2")), None),
        (TextMatch(present=True), ((b"x_a", b""),), None),
        (TextMatch(present=False), ((b"x_a", b""),), None),
        (TextMatch(present=True), (*ONE, (b"x.a", b"")), True),
        # Bytes that are no text.
        ("team-1", ((b"x-a", b"team-1\xff"),), False),
        (TextMatch(prefix="team-1"), ((b"x-a", b"team-1\xff"),), True),
        ("ä", ((b"x-a", "ä".encode()),), True),
        ("team-1", None, None),
        (TextMatch(present=False), None, None),
    ],
)
def test_headers(wanted: str | TextMatch, headers: Headers | None, answer: bool | None) -> None:
    assert Conditions((), (), {"x-a": wanted}).match(None, headers) is answer


@pytest.mark.parametrize(
    ("address", "headers", "answer"),
    [
        (V4, ((b"x-a", b"1"), (b"x-b", b"2")), True),
        (V6, ((b"x-a", b"1"), (b"x-b", b"2")), False),
        (V4, ((b"x-a", b"1"),), False),
        # What does not hold decides, whatever else cannot be evaluated.
        (None, ((b"x-a", b"1"), (b"x-b", b"3")), False),
        (V4, ((b"x-a", b"1"), (b"x-a", b"1"), (b"x-b", b"3")), False),
        (None, ((b"x-a", b"1"), (b"x-b", b"2")), None),
        (V4, ((b"x-a", b"1"), (b"x-a", b"1"), (b"x-b", b"2")), None),
        (V4, None, None),
        (V6, None, False),
    ],
)
def test_all_of_them_must_hold(address: tuple[int, int] | None, headers: Headers | None, answer: bool | None) -> None:
    assert Conditions(("10.0.0.0/8",), (), {"x-a": "1", "x-b": "2"}).match(address, headers) is answer


PATTERNS = (TextMatch(exact="1"), TextMatch(prefix="1"), TextMatch(suffix="2"), TextMatch(regex="[12]"))
PRESENCE = (TextMatch(present=True), TextMatch(present=False))
wanted_headers = st.dictionaries(
    st.sampled_from(["x-a", "x_a", "x-b"]),
    st.sampled_from(["1", "2", *PATTERNS, *PRESENCE]),
    min_size=1,
    max_size=3,
)
sent_headers = st.lists(
    st.tuples(
        st.sampled_from([b"x-a", b"x_a", b"x.a", b"x-b", b"x-c"]), st.sampled_from([b"1", b"2", b"12", b"3", b""])
    ),
    max_size=4,
).map(tuple)


@given(st.lists(wanted_headers, min_size=1, max_size=3), sent_headers)
def test_what_is_left_of_headers_is_answered_alike(wanted: list[dict[str, str | TextMatch]], sent: Headers) -> None:
    conditions = [Conditions((), (), each) for each in wanted]
    names = frozenset(rule.spelled for each in conditions for rule in each.headers)
    reduced = reduce_headers(sent, names, exact_values(conditions))
    for each in conditions:
        assert each.match(None, reduced) is each.match(None, sent)
    assert len(reduced) <= len(sent)
    assert reduce_headers(reduced, names, exact_values(conditions)) == reduced


def test_what_conditions_do_not_tell_apart_is_left_out() -> None:
    conditions = [Conditions((), (), {"x-a": "1", "x-b": TextMatch(prefix="p"), "x-c": TextMatch(present=True)})]
    names, values = frozenset({b"x-a", b"x-b", b"x-c"}), exact_values(conditions)
    assert values == {b"x-a": frozenset({b"1"}), b"x-b": None, b"x-c": frozenset()}

    def left(*headers: tuple[bytes, bytes]) -> Headers:
        return reduce_headers(headers, names, values)

    assert left((b"x-d", b"1"), (b"x-c", b"9"), (b"x-a", b"1")) == ((b"x-a", b"1"), (b"x-c", b""))
    assert left((b"x-a", b"2")) == left((b"x-a", b"3")) == ((b"x-a", b""),)
    assert left((b"x-b", b"2")) == ((b"x-b", b"2"),)
    twice = ((b"x-b", b""),) * 2
    assert left(*((b"x-b", b"%d" % number) for number in range(9))) == left((b"x-b", b"p"), (b"x-b", b"q")) == twice


def test_in_words() -> None:
    conditions = Conditions(("10.0.0.0/8", "fd00::/8"), ("10.1.0.0/16",), {"x-a": "1", "x-b": TextMatch(suffix="z")})
    assert conditions.words == (
        'ipBlocks 10.0.0.0/8, fd00::/8; notIpBlocks 10.1.0.0/16; header x-a: "1"; header x-b: suffix "z"'
    )
    assert in_words(ClaimPattern(any_of=(3, True, "x", TextMatch(regex="a+")))) == 'any of 3, true, "x", regex "a+"'
    assert in_words(ClaimPattern(all_of=("x", "y"))) == 'all of "x", "y"'
    assert in_words(TextMatch(present=True)) == "any value"
    assert in_words(ClaimPattern(present=False)) == "no value"
    assert in_words(TextMatch(contains="a")) == 'contains "a"'
    assert in_words(TextMatch(exact="a")) == 'exact "a"'
