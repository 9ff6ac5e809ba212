"""The life of a key set: no sleeping, no fetching, only what happened when."""

from __future__ import annotations

import json
from functools import cache

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from meshproxy.devtools.issuer import SigningKey
from meshproxy.identity.key_budget import CAPACITY, IN_VAIN, REFILL, RESERVE, Ask
from meshproxy.identity.keys import BACK_OFF, REFRESH, IssuerKeys
from tests.thorough import tries

ES = frozenset({"ES256"})


@cache
def key(kid: str) -> SigningKey:
    return SigningKey.generate(kid, "ES256")


def document(*kids: str) -> bytes:
    return json.dumps({"keys": [key(kid).public_jwk() for kid in kids]}).encode()


def fresh(*kids: str, now: float = 0.0) -> IssuerKeys:
    keys = IssuerKeys("corp", ES)
    keys.begin()
    keys.take(document(*kids), now, 0.5)
    return keys


def test_in_the_beginning() -> None:
    keys = IssuerKeys("corp", ES)
    assert not keys.has_keys
    assert keys.find("a", "ES256") is None
    assert keys.wait(0.0) == 0
    assert keys.ask("a", 0.0) is Ask.WAIT


@pytest.mark.parametrize("algorithms", [set(), {"none"}, {"HS256"}, {"RS256", "HS256"}, {"rs256"}])
def test_algorithms_that_cannot_be_had(algorithms: set[str]) -> None:
    with pytest.raises(ValueError, match="corp"):
        IssuerKeys("corp", frozenset(algorithms))


def test_fresh_then_due() -> None:
    keys = fresh("a", now=1000.0)
    assert keys.fetched_at == 1000.0
    assert keys.problem is None
    assert keys.find("a", "ES256") is not None
    assert keys.wait(1000.0) == pytest.approx(REFRESH)
    assert keys.wait(1000.0 + REFRESH) == pytest.approx(0, abs=1e-6)
    assert keys.wait(1e9) == 0


@pytest.mark.parametrize(("jitter", "wait"), [(0.0, 270.0), (1.0, 330.0)])
def test_a_fleet_does_not_fetch_in_step(jitter: float, wait: float) -> None:
    keys = IssuerKeys("corp", ES)
    keys.take(document("a"), 0.0, jitter)
    assert keys.wait(0.0) == pytest.approx(wait)


def test_back_off_grows_and_ends() -> None:
    keys = IssuerKeys("corp", ES)
    waits = []
    for _ in range(40):
        keys.begin()
        keys.fail("down", 0.0, 1.0)
        waits.append(keys.wait(0.0))
    assert waits[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert waits[-1] == BACK_OFF[1]
    keys.fail("down", 0.0, 0.0)
    assert keys.wait(0.0) == BACK_OFF[1] / 2
    keys.take(document("a"), 0.0, 0.5)
    assert keys.failures == 0
    keys.fail("down", 0.0, 1.0)
    assert keys.wait(0.0) == 1


@pytest.mark.parametrize("broken", [b"", b"<html>", b'{"keys": []}', b'{"keys": [{"kty": "oct", "k": "x"}]}'])
def test_good_keys_outlive_failures(broken: bytes) -> None:
    """JWKS down for a day: known keys stay valid, unknown ones are refused at once and nobody piles up."""
    keys = fresh("a")
    known = keys.find("a", "ES256")
    for hour in range(24):
        now = 3600.0 * hour + 400
        keys.begin()
        if hour % 2:
            keys.fail("down", now, 0.5)
        else:
            keys.take(broken, now, 0.5)
        assert keys.problem
        assert keys.find("a", "ES256") is known
        assert keys.ask("b", now) is Ask.LATER
        assert keys.retry_after(now) == pytest.approx(keys.wait(now), abs=1)
        assert keys.ask("a", now, is_known=True) is Ask.NEVER
        assert keys.find("b", "ES256") is None
    assert known is not None
    assert not known.is_retired
    assert keys.fetched_at == 0.0
    assert keys.failures == 24


def test_an_unknown_key_asks_once() -> None:
    keys = fresh("a", now=1000.0)
    assert keys.ask("b", 1000.0) is Ask.WAIT
    keys.begin()
    assert keys.ask("b", 1000.5) is Ask.WAIT  # joins the one in progress
    keys.take(document("a"), 1001.0, 0.5)
    assert keys.ask("b", 1001.0) is Ask.NEVER
    assert keys.ask("b", 1001.0 + IN_VAIN[0] - 0.1) is Ask.NEVER
    assert keys.ask("b", 1001.0 + IN_VAIN[0]) is Ask.WAIT


def test_a_second_change_soon_after_the_first() -> None:
    keys = fresh("a", now=1000.0)
    for second, kid in enumerate("bc"):
        now = 1000.0 + second
        assert keys.ask(kid, now) is Ask.WAIT
        keys.begin()
        keys.take(document(kid), now, 0.5)
        assert keys.find(kid, "ES256") is not None


def test_a_regular_refresh_spends_nothing() -> None:
    keys = fresh("a")
    for _ in range(2 * CAPACITY):
        keys.begin()
        keys.take(document("a"), 300.0, 0.5)
    assert keys.ask("b", 300.0) is Ask.WAIT


def test_when_to_come_again() -> None:
    keys = fresh("a", now=0.0)
    for number in range(CAPACITY - RESERVE):
        assert keys.ask(f"made-up-{number}", 0.0) is Ask.WAIT
        keys.begin()
        keys.take(document("a"), 0.0, 0.5)
    for number in range(RESERVE):
        assert keys.ask(f"repeated-{number}", 0.0) is Ask.LATER
        assert keys.retry_after(0.0) == 1
        assert keys.ask(f"repeated-{number}", 0.0) is Ask.WAIT
        keys.begin()
        keys.take(document("a"), 0.0, 0.5)
    assert keys.retry_after(0.0) == REFILL
    assert keys.retry_after(REFRESH - 3) == 1


def test_rotation_keeps_and_retires() -> None:
    keys = fresh("a", "b")
    a, b = keys.find("a", "ES256"), keys.find("b", "ES256")
    assert a is not None
    assert b is not None
    keys.take(document("b", "c"), 300.0, 0.5)
    assert keys.find("b", "ES256") is b
    assert keys.find("c", "ES256") is not None
    assert (a.is_retired, b.is_retired) == (True, False)
    # The same id with other material is another key.
    changed = {**key("c").public_jwk(), "kid": "b"}
    keys.take(json.dumps({"keys": [changed]}).encode(), 600.0, 0.5)
    assert b.is_retired
    assert keys.find("b", "ES256") is not b


def test_keys_given_once() -> None:
    keys = IssuerKeys("corp", ES, refresh=None)
    keys.take(document("a"), 0.0, 0.5)
    assert keys.ask("b", 0.0) is Ask.NEVER
    assert keys.ask("b", 1e9) is Ask.NEVER
    assert keys.ask("a", 1e9, is_known=True) is Ask.NEVER


def test_an_attempt_that_was_given_up() -> None:
    keys = IssuerKeys("corp", ES)
    keys.begin()
    keys.abandon(0.0)
    assert not keys.is_refreshing
    assert keys.failures == 0
    assert keys.wait(0.0) == 0


@pytest.mark.parametrize("jump", [-300.0, -90_000.0, 90_000.0])
def test_clocks_that_jump(jump: float) -> None:
    keys = fresh("a", now=100_000.0)
    assert keys.ask("b", 100_000.0) is Ask.WAIT
    keys.begin()
    keys.take(document("a"), 100_000.0, 1.0)
    now = 100_000.0 + jump
    assert 0 <= keys.wait(now) <= REFRESH * 1.1 + 1e-6
    assert keys.ask("b", now) is Ask.WAIT


class Life(RuleBasedStateMachine):
    """Whatever happens in whatever order: good keys are never lost, and nobody may ask without bound."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = IssuerKeys("corp", ES)
        self.now = 0.0
        self.published: tuple[str, ...] = ()

    @rule(seconds=st.sampled_from([0.1, 1.0, 29.0, 31.0, 400.0]))
    def later(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def begin(self) -> None:
        self.keys.begin()

    @rule(kids=st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True).map(tuple), jitter=st.floats(0, 1))
    def take(self, kids: tuple[str, ...], jitter: float) -> None:
        self.keys.take(document(*kids), self.now, jitter)
        self.published = kids

    @rule(jitter=st.floats(0, 1), is_document=st.booleans())
    def fail(self, jitter: float, is_document: bool) -> None:
        if is_document:
            self.keys.take(b"{}", self.now, jitter)
        else:
            self.keys.fail("down", self.now, jitter)

    @invariant()
    def what_was_published_last_is_known(self) -> None:
        assert self.keys.has_keys == bool(self.published)
        for kid in "abc":
            assert (self.keys.find(kid, "ES256") is not None) == (kid in self.published)
        if self.keys.keys is not None:
            assert not any(key.is_retired for key in self.keys.keys.keys)

    @invariant()
    def waits_are_bounded(self) -> None:
        assert 0 <= self.keys.wait(self.now) <= REFRESH * 1.1
        if self.keys.failures and not self.keys.is_refreshing:
            assert self.keys.ask("z", self.now) is not Ask.WAIT
            assert self.keys.problem


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=tries(50), stateful_step_count=20)
