"""Is a route for this request?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.events import Headers
from meshproxy.config.fields import Subject, TextMatch, TokenSubject, WorkloadSubject
from meshproxy.config.routes import Match
from meshproxy.identity.caller import ANONYMOUS, Caller, Token, Workload
from meshproxy.routing.match import Condition

GOLD = Condition(Match(headers={"x-tier": "gold"}), "d")


def workload(namespace: str = "pricing", domain: str = "d") -> Caller:
    return Caller(Workload(f"spiffe://{domain}/ns/{namespace}/sa/a", domain, namespace, "a", 1e12))


@pytest.mark.parametrize(
    ("headers", "fits"),
    [
        (((b"x-tier", b"gold"),), True),
        (((b"a", b"b"), (b"x-tier", b"gold"), (b"c", b"d")), True),
        ((), False),
        (((b"x-tier", b"Gold"),), False),
        (((b"x-tier", b"gold,gold"),), False),
        (((b"x-tier", b"goldx"),), False),
        (((b"x-tiers", b"gold"),), False),
        # Twice is not once, whatever stands there.
        (((b"x-tier", b"gold"), (b"x-tier", b"gold")), False),
        (((b"x-tier", b"gold"), (b"x-tier", b"iron")), False),
        (((b"x-tier", b"iron"), (b"x-tier", b"gold")), False),
    ],
)
def test_a_header_fits_exactly_and_once(headers: Headers, fits: bool) -> None:
    assert GOLD.fits(headers, ANONYMOUS) is fits


NAMES = st.sampled_from([b"a", b"b", b"x"])
VALUES = st.sampled_from([b"1", b"2"])


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5), st.dictionaries(NAMES, VALUES, min_size=1))
def test_every_header_counts(headers: list[tuple[bytes, bytes]], wanted: dict[bytes, bytes]) -> None:
    condition = Condition(Match(headers={name.decode(): value.decode() for name, value in wanted.items()}), "d")
    expected = all([each for each in headers if each[0] == name] == [(name, value)] for name, value in wanted.items())
    assert condition.fits(tuple(headers), ANONYMOUS) is expected


def test_what_is_not_ascii_is_utf_8() -> None:
    condition = Condition(Match(headers={"x-a": "Zürich"}), "d")
    assert condition.fits(((b"x-a", "Zürich".encode()),), ANONYMOUS)
    assert not condition.fits(((b"x-a", "Zürich".encode("latin-1")),), ANONYMOUS)


@pytest.mark.parametrize(
    ("match", "values", "fits"),
    [
        (TextMatch(prefix="go"), [b"gold"], True),
        (TextMatch(prefix="go"), [b"iron"], False),
        (TextMatch(prefix="go"), [], False),
        # Twice: the value is unknown, but there is one.
        (TextMatch(prefix="go"), [b"gold", b"gold"], False),
        (TextMatch(regex=".*"), [b"gold", b"gold"], False),
        (TextMatch(present=True), [b"gold", b"iron"], True),
        (TextMatch(present=False), [b"gold", b"iron"], False),
        (TextMatch(present=True), [b""], True),
        (TextMatch(present=True), [], False),
        (TextMatch(present=False), [], True),
        (TextMatch(present=False), [b""], False),
        (TextMatch(regex="G.ld"), ["Göld".encode()], True),
        (TextMatch(regex="G.ld"), [b"G\xf6ld"], True),
        (TextMatch(regex="G.ld"), [b"G\xf6\xf6ld"], False),
        (TextMatch(suffix="ö"), [b"\xf6"], False),
    ],
)
def test_a_header_by_what_it_is_like(match: TextMatch, values: list[bytes], fits: bool) -> None:
    headers = ((b"x-tiers", b"gold"), *((b"x-tier", value) for value in values))
    assert Condition(Match(headers={"x-tier": match}), "d").fits(headers, ANONYMOUS) is fits
    both = Match(headers={"x-tier": match, "x-tiers": "gold"})
    assert Condition(both, "d").fits(headers, ANONYMOUS) is fits
    assert not Condition(both, "d").fits(headers[1:], ANONYMOUS)


def test_other_spellings_count() -> None:
    """Some servers take `x_tier` for `x-tier`."""
    for wanted in ("gold", TextMatch(exact="gold"), TextMatch(prefix="g")):
        condition = Condition(Match(headers={"x-tier": wanted}), "d")
        assert condition.fits(((b"x-tier", b"gold"),), ANONYMOUS)
        assert not condition.fits(((b"x_tier", b"gold"),), ANONYMOUS)
        assert not condition.fits(((b"x-tier", b"gold"), (b"x.tier", b"gold")), ANONYMOUS)
    absent = Condition(Match(headers={"x-tier": TextMatch(present=False)}), "d")
    assert absent.fits((), ANONYMOUS)
    assert not absent.fits(((b"x_tier", b"gold"),), ANONYMOUS)


def test_callers() -> None:
    condition = Condition(Match(caller=Subject(workload=WorkloadSubject(namespace="pricing"))), "d")
    assert condition.fits((), workload())
    for other in (workload("billing"), workload(domain="other"), ANONYMOUS):
        assert not condition.fits((), other)


def test_whoever_sends_no_token_is_not_whom_a_token_is_asked_of() -> None:
    condition = Condition(Match(caller=Subject(token=TokenSubject(issuer="corp", claims={"team": "a"}))), "d")
    assert not condition.fits((), ANONYMOUS)
    for claims, fits in (({"team": "a"}, True), ({"team": ["b", "a"]}, True), ({"team": "b"}, False), ({}, False)):
        assert condition.fits((), Caller(None, Token("corp", "s", claims, 1e12))) is fits


def test_headers_and_caller_together() -> None:
    subject = Subject(workload=WorkloadSubject(namespace="pricing"))
    condition = Condition(Match(headers={"x-tier": "gold"}, caller=subject), "d")
    gold = ((b"x-tier", b"gold"),)
    assert [condition.fits(h, c) for h, c in ((gold, workload()), (gold, ANONYMOUS), ((), workload()))] == [
        True,
        False,
        False,
    ]
