from __future__ import annotations

from typing import Any

import pytest

from meshproxy.config import routes
from meshproxy.config.cors import Cors, read_field_name, read_origin


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "https://app.example",
        "http://localhost:3000",
        "https://*.app.example",
        "https://*.app.example:8443",
        "http://[::1]:3000",
        "http://127.0.0.1",
        "https://xn--bcher-kva.example",
        "https://a_b.example",
        "chrome-extension://abcdefghijklmnop",
        "http://app.example:443",
    ],
)
def test_origins(origin: str) -> None:
    assert read_origin(origin) == origin


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ("https://app.example/", "no path"),
        ("https://app.example/page", "no path"),
        ("HTTPS://app.example", "lower case"),
        ("https://App.example", "lower case"),
        ("app.example", "expected an origin"),
        ("https://", "expected an origin"),
        ("https://*", "expected an origin"),
        ("https://*app.example", "expected an origin"),
        ("https://app.*", "expected an origin"),
        ("https://a.*.example", "expected an origin"),
        ("https://*.[::1]", "expected an origin"),
        ("https://user@app.example", "expected an origin"),
        ("https://app.example:443", "default port"),
        ("http://app.example:80", "default port"),
        ("https://app.example:0", "browsers never send"),
        ("https://app.example:08443", "browsers never send"),
        ("https://app.example:70000", "browsers never send"),
        ("null", "sandboxed page"),
        ("", "expected an origin"),
        ({"exact": "https://app.example"}, "expected an origin"),
        (["https://app.example"], "expected an origin"),
        (None, "expected an origin"),
        ("https://app.example\n", "expected an origin"),
    ],
)
def test_what_no_browser_sends_is_refused(origin: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_origin(origin)


def test_names_of_fields_are_in_any_case() -> None:
    assert read_field_name("X-Meshproxy-Refusal") == "x-meshproxy-refusal"
    assert read_field_name("*") == "*"
    for bad in ("", "a b", "a,b", "a\r\nb", "grün", 3, None):
        with pytest.raises(ValueError, match="name of a header"):
            read_field_name(bad)


@pytest.mark.parametrize("name", ["allow_origins", "allow_methods", "allow_headers", "expose_headers"])
def test_credentials_exclude_wildcards(name: str) -> None:
    fields: dict[str, Any] = {"allow_origins": ("https://app.example",), name: ("*",)}
    Cors(**fields)
    with pytest.raises(ValueError, match='is "\\*" together with "allowCredentials"'):
        Cors(**fields, allow_credentials=True)


def test_a_wildcard_below_a_host_goes_with_credentials() -> None:
    Cors(allow_origins=("https://*.app.example",), allow_credentials=True)


def test_a_route_for_some_requests_of_a_model_cannot_have_it() -> None:
    cors = Cors(allow_origins=("*",))
    match = (routes.Match(headers={"x-canary": "1"}),)
    with pytest.raises(ValueError, match="a preflight has neither the caller nor the headers"):
        routes.RouteSpec(models=("m",), match=match, cors=cors)


def test_it_is_for_inbound_calls() -> None:
    cors = Cors(allow_origins=("*",))
    with pytest.raises(ValueError, match="is for inbound calls"):
        routes.RouteSpec(models=("m",), directions=("outbound",), cors=cors)
    routes.RouteSpec(models=("m",), directions=("inbound",), cors=cors)
