"""What is remembered of STS, for how long, and how much may be sent."""

from __future__ import annotations

from time import time

import pytest

from meshproxy.identity.callers import AT_ONCE, BURST, ISSUER, REMEMBERED, IdentityWanted, KnownCallers, Settings
from meshproxy.identity.presigned import LIFE
from meshproxy.identity.tokens import KeysWanted, TokenVerifier
from meshproxy.identity.tokens import credential as in_place
from meshproxy.refusal import Reason, Refusal
from tests.identity.test_presigned import answer
from tests.sidecar.sts import AUDIENCE, ROLE, SESSION, as_token, presign

HOST = "sts.eu-central-1.amazonaws.com"
NOW = float(int(time()))
SETTINGS = Settings(frozenset({HOST}), 443, AUDIENCE)


def credential(number: int = 0) -> bytes:
    return as_token(presign(HOST, at=NOW, expires=60 + number)).encode()


def wanted(known: KnownCallers, given: bytes, now: float = NOW) -> IdentityWanted:
    with pytest.raises(IdentityWanted) as caught:
        known.find(given, now)
    return caught.value


def refused(known: KnownCallers, given: bytes, now: float = NOW) -> tuple[Reason, str]:
    with pytest.raises(Refusal) as caught:
        known.find(given, now)
    return caught.value.reason, caught.value.message


def test_a_caller_is_asked_about_once() -> None:
    known = KnownCallers(SETTINGS)
    first = wanted(known, credential())
    known.begin(first)
    assert wanted(known, credential()).digest == first.digest  # it waits, too
    known.take(first.digest, answer(), NOW)
    token, until = known.find(credential(), NOW + 1)
    assert (token.issuer, token.subject, token.iam_role, until) == (ISSUER, SESSION, ROLE, NOW + LIFE)
    assert known.find(credential(), NOW + LIFE - 1)[0] is token
    assert refused(known, credential(), NOW + LIFE)[0] is Reason.UNAUTHENTICATED


def test_what_sts_refuses_stays_refused() -> None:
    known = KnownCallers(SETTINGS)
    asked = wanted(known, credential())
    known.begin(asked)
    known.take(asked.digest, None, NOW)
    assert refused(known, credential(), NOW + 100) == (
        Reason.UNAUTHENTICATED,
        "AWS STS does not accept the pre-signed request.",
    )


def test_without_an_answer_it_is_tried_again() -> None:
    known = KnownCallers(SETTINGS)
    asked = wanted(known, credential())
    known.begin(asked)
    known.fail(asked.digest, NOW)
    assert refused(known, credential(), NOW)[0] is Reason.KEYS_UNAVAILABLE
    asked = wanted(known, credential(), NOW + 1)
    known.begin(asked)
    known.take(asked.digest, b"<html>", NOW + 1)
    assert refused(known, credential(), NOW + 1)[0] is Reason.UNAUTHENTICATED
    wanted(known, credential(), NOW + 2)


def test_strangers_cannot_have_everything_sent() -> None:
    known = KnownCallers(SETTINGS)
    waiting = [wanted(known, credential(number)) for number in range(AT_ONCE)]
    for each in waiting:
        known.begin(each)
    assert refused(known, credential(AT_ONCE))[0] is Reason.KEYS_UNAVAILABLE
    for each in waiting:
        known.take(each.digest, None, NOW)
    for number in range(AT_ONCE, BURST):
        wanted(known, credential(number))
    assert refused(known, credential(BURST))[0] is Reason.KEYS_UNAVAILABLE
    wanted(known, credential(BURST), NOW + 1)
    assert refused(known, b"k8s-aws-v1.eA")[0] is Reason.UNAUTHENTICATED  # costs nobody anything


def test_what_is_remembered_is_bounded() -> None:
    known = KnownCallers(SETTINGS)
    asked = wanted(known, credential())
    for number in range(REMEMBERED + 10):
        digest = b"%d" % number
        known.begin(IdentityWanted(digest, asked.request))
        known.take(digest, None, NOW)
    assert len(known._refused) == REMEMBERED


def test_strangers_do_not_displace_callers() -> None:
    known = KnownCallers(SETTINGS)
    asked = wanted(known, credential())
    known.begin(asked)
    known.take(asked.digest, answer(), NOW)
    for number in range(REMEMBERED + 10):
        digest = b"%d" % number
        known.begin(IdentityWanted(digest, asked.request))
        known.take(digest, None, NOW)
    assert known.find(credential(), NOW)[0].iam_role == ROLE


def test_many_calls_with_one_of_them_cost_one() -> None:
    """Before it was sent: they may come in one read."""
    known = KnownCallers(SETTINGS)
    for _ in range(2 * BURST):
        wanted(known, credential())
    wanted(known, credential(1))


def test_only_where_bearer_tokens_are() -> None:
    verifier = TokenVerifier([], callers=KnownCallers(SETTINGS))
    with pytest.raises(Refusal, match="three parts"):
        verifier.verify(in_place("cookie session", credential()), NOW)


def test_through_the_verifier() -> None:
    known = KnownCallers(SETTINGS)
    verifier = TokenVerifier([], callers=known)
    given = b"Bearer " + credential()
    with pytest.raises(KeysWanted) as caught:
        verifier.verify(given, NOW)
    assert caught.value.identity is not None
    known.begin(caught.value.identity)
    known.take(caught.value.identity.digest, answer(), NOW)
    token = verifier.verify(given, NOW)
    assert token.iam_role == ROLE
    assert verifier.verify(given, NOW + 1) is token
    with pytest.raises(Refusal, match="signed too long ago"):
        verifier.verify(given, NOW + LIFE)
    with pytest.raises(Refusal, match="three parts"):
        TokenVerifier([]).verify(given, NOW)
