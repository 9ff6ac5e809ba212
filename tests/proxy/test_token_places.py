"""Tokens in headers and cookies of their own."""

from __future__ import annotations

import pytest

from meshproxy.identity.tokens import credential
from meshproxy.proxy.headers import RequestHeaders
from meshproxy.proxy.token_places import TokenPlaces

IAP = "header x-goog-iap-jwt-assertion"
COOKIE = "cookie session"
PLACES = TokenPlaces({b"x-goog-iap-jwt-assertion": IAP}, {"session": COOKIE})


def found(*headers: tuple[bytes, bytes]) -> RequestHeaders:
    return PLACES.find(RequestHeaders(headers))


def test_without_one_authorization_counts() -> None:
    fields = RequestHeaders(((b"authorization", b"Bearer a"), (b"cookie", b"sessions=x; xsession=y"), (b"x-y", b"z")))
    assert PLACES.find(fields) is fields


@pytest.mark.parametrize("value", [b"a.b.c", b"Bearer a.b.c", b"bearer   a.b.c"])
def test_a_header(value: bytes) -> None:
    fields = found((b"authorization", b"Bearer z"), (b"x-goog-iap-jwt-assertion", value), (b"x-y", b"z"))
    assert fields.authorization == [credential(IAP, b"a.b.c")]
    assert fields.forward == ((b"x-y", b"z"),)
    # With `forwardToken` all of it goes on.
    assert (b"x-goog-iap-jwt-assertion", value) in fields.forward_with_token
    assert (b"authorization", b"Bearer z") in fields.forward_with_token


def test_a_token_in_a_place_of_no_issuer_goes_on_with_none_of_them() -> None:
    """An ALB adds two tokens, of which an issuer takes one."""
    other = (b"x-amzn-oidc-accesstoken", b"d.e.f")
    fields = found((b"x-goog-iap-jwt-assertion", b"a.b.c"), other, (b"x-y", b"z"))
    assert fields.authorization == [credential(IAP, b"a.b.c")]
    assert fields.forward == ((b"x-y", b"z"),)
    assert other in fields.forward_with_token
    assert PLACES.find(RequestHeaders((other,))).forward == ()


def test_another_spelling_of_a_place_is_none_and_does_not_go_on() -> None:
    """A server that folds names would read the second as the first."""
    alias, rest = (b"x_goog.iap-jwt_assertion", b"d.e.f"), (b"x-y", b"z")
    fields = TokenPlaces({b"x-token": "header x-token"}, {}).find(
        RequestHeaders(((b"authorization", b"Bearer z"), (b"x_token", b"d.e.f"), alias, rest))
    )
    assert fields.authorization == [b"Bearer z"]
    assert fields.forward == (rest,)
    assert found((b"x-goog-iap-jwt-assertion", b"a.b.c"), alias, rest).forward == (rest,)


@pytest.mark.parametrize(
    ("value", "rest"),
    [
        (b"session=a.b.c", b""),
        (b'session="a.b.c"', b""),
        (b"theme=dark; session=a.b.c", b"theme=dark"),
        (b"theme=dark; session = a.b.c", b"theme=dark"),
        (b"session=a.b.c;theme=dark", b"theme=dark"),
        (b"a=1; session=a.b.c; b=2", b"a=1; b=2"),
    ],
)
def test_a_cookie(value: bytes, rest: bytes) -> None:
    fields = found((b"cookie", value), (b"x-y", b"z"))
    assert fields.authorization == [credential(COOKIE, b"a.b.c")]
    assert fields.forward == (((b"cookie", rest),) if rest else ()) + ((b"x-y", b"z"),)


@pytest.mark.parametrize(
    "headers",
    [
        ((b"x-goog-iap-jwt-assertion", b"a"), (b"x-goog-iap-jwt-assertion", b"b")),
        ((b"x-goog-iap-jwt-assertion", b"a"), (b"cookie", b"session=b")),
        ((b"cookie", b"session=a; session=b"),),
        ((b"cookie", b"session=a"), (b"cookie", b"session=b")),
    ],
)
def test_two_of_them_are_two(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    """Which the station that reads them refuses."""
    assert len(found(*headers).authorization) == 2
