from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.cors import Cors
from meshproxy.config.routes import Match, ModelRoute, RouteSpec
from meshproxy.config.schema import Metadata
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.routing.carried_state import CarriedState
from meshproxy.routing.cors import CorsPolicy, share
from meshproxy.routing.routes import compile_routes

APP = b"https://app.example"
ALLOW = b"access-control-allow-origin"


def policy(*origins: str, **fields: Any) -> CorsPolicy:
    return CorsPolicy(Cors(allow_origins=origins or (APP.decode(),), **fields))


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        (b"https://app.example", True),
        (b"https://app.example.evil", False),
        (b"http://app.example", False),
        (b"https://app.example:8443", False),
        (b"https://APP.example", False),
        (b"null", False),
        (b"", False),
        (b"https://shop.example", False),
        (b"https://a.shop.example", True),
        (b"https://a.b.shop.example", True),
        (b"https://.shop.example", False),
        (b"https://a..shop.example", False),
        (b"https://evil.test/.shop.example", False),
        (b"https://evil.test:80.shop.example", False),
        (b"https://user@x.shop.example", False),
        (b"https://ashop.example", False),
        (b"https://*.shop.example", False),
        (b"http://a.shop.example", False),
        (b"https://a.shop.example:8443", False),
    ],
)
def test_which_origins(origin: bytes, is_allowed: bool) -> None:
    assert policy("https://app.example", "https://*.shop.example").allows(origin) is is_allowed


@given(origin=st.binary(max_size=60))
def test_nothing_that_is_said_is_more_than_what_the_document_names(origin: bytes) -> None:
    cors = policy("https://app.example", "https://*.shop.example")
    for text in (origin, APP + origin, origin + b".shop.example", b"https://" + origin + b".shop.example"):
        if cors.allows(text):
            assert text == APP or (text.startswith(b"https://") and text.endswith(b".shop.example"))
            assert text.isascii()
            assert not set(text[8:]) & set(b"/:@\r\n ")


def test_a_named_origin_is_repeated_and_varies() -> None:
    cors = policy(expose_headers=("x-meshproxy-refusal", "retry-after"), allow_credentials=True)
    assert cors.fields(APP) == (
        (ALLOW, APP),
        (b"access-control-allow-credentials", b"true"),
        (b"vary", b"origin"),
        (b"access-control-expose-headers", b"x-meshproxy-refusal, retry-after"),
    )
    assert cors.fields(None) == cors.fields(b"https://other.example") == ((b"vary", b"origin"),)


def test_any_origin_is_told_to_everybody() -> None:
    """A cache may have kept what it was sent without an `origin`."""
    cors = policy("*", "https://app.example")
    for origin in (APP, b"null", None):
        assert cors.fields(origin) == ((ALLOW, b"*"),)


def test_a_preflight() -> None:
    assert policy(max_age=600.9).preflight_fields(APP, b"content-type") == (
        (ALLOW, APP),
        (b"vary", b"origin"),
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", b"authorization, content-type"),
        (b"access-control-max-age", b"600"),
    )
    bare = policy("*", allow_methods=(), allow_headers=())
    assert bare.preflight_fields(APP, None) == ((ALLOW, b"*"),)


def test_any_header_is_what_was_asked_for() -> None:
    cors = policy("*", allow_headers=("*",))
    allowed = b"access-control-allow-headers"
    assert dict(cors.preflight_fields(APP, b"authorization, x-mine"))[allowed] == b"authorization, x-mine"
    for odd in (None, b"", b"a;b", b"a,,b", b"a b", b"\xff"):
        assert allowed not in dict(cors.preflight_fields(APP, odd))


def test_what_the_model_server_says_of_origins_is_replaced() -> None:
    theirs = (
        (b"access-control-allow-origin", b"*"),
        (b"access-control-allow-methods", b"GET, POST"),
        (b"content-type", b"application/json"),
    )
    fields = policy().fields(APP)
    assert share(theirs, fields) == ((b"content-type", b"application/json"), *fields)
    assert share(theirs, policy().fields(None)) == ((b"content-type", b"application/json"), (b"vary", b"origin"))


@pytest.mark.parametrize("vary", [b"origin", b"Accept, Origin", b"*"])
def test_what_varies_already_is_not_said_twice(vary: bytes) -> None:
    assert share(((b"vary", vary),), policy().fields(APP)) == ((b"vary", vary), (ALLOW, APP))


def test_what_varies_by_something_else_varies_by_both() -> None:
    assert share(((b"vary", b"accept"),), policy().fields(None)) == ((b"vary", b"accept"), (b"vary", b"origin"))


def test_the_route_for_all_calls_of_the_model_counts() -> None:
    def document(name: str, **spec: Any) -> ModelRoute:
        return ModelRoute(metadata=Metadata(name), spec=RouteSpec(**spec))

    cors = Cors(allow_origins=("*",))
    documents = (
        document("all", models=("*",), cors=cors),
        document("canary", models=("m",), match=(Match(headers={"x": "1"}),)),
        document("closed", models=("closed",)),
    )
    routes = compile_routes("inbound", "local", None, documents, "dev.example", CarriedState())
    assert routes.has_cors
    for _ in range(2):  # remembered or not
        assert routes.for_all(Call(Verb.PREDICT, (ModelRef("m"),))).cors is not None
        assert routes.for_all(Call(Verb.PREDICT, (ModelRef("other"),))).cors is not None
        assert routes.for_all(Call(Verb.PREDICT, (ModelRef("closed"),))).cors is None
        assert routes.for_all(Call(Verb.METRICS)).cors is None
    outbound = compile_routes("outbound", None, None, documents, "dev.example", CarriedState())
    assert not outbound.has_cors
