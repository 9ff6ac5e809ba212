"""Nodes to structs: every problem, each in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import inspect

from meshproxy.config import fields, routes, schema, servers, sidecars
from meshproxy.config.codes import Code
from meshproxy.config.convert import RENAMED, convert, words
from meshproxy.config.elsewhere import is_struct
from meshproxy.config.nodes import BROKEN, read_documents


def read(kind: type[Any], text: str) -> tuple[Any, list[tuple[int, str, str]]]:
    problems: list[tuple[int, str, str]] = []

    def report(line: int, field: str, message: str, code: Code) -> None:
        problems.append((line, field, message))

    (node,) = read_documents(text, report)
    return convert(node, inspect.type_info(kind), Path("/etc/mesh"), report), problems


def wrong(kind: type[Any], text: str) -> list[tuple[int, str, str]]:
    found, problems = read(kind, text)
    assert found is BROKEN
    assert problems
    return problems


def test_a_struct_with_defaults() -> None:
    found, problems = read(servers.Endpoint, "rest: 127.0.0.1:8501")
    assert problems == []
    assert found == servers.Endpoint(rest="127.0.0.1:8501")


def test_every_field_is_looked_at() -> None:
    problems = wrong(
        schema.Rule,
        "models: [a, '', 'b**']\nverbs:\n- predict\n- predcit\n- 3\nversions: x\nlabel: [a]\nsignatures: [1.5]\n",
    )
    assert [(line, field) for line, field, _ in problems] == [
        (1, "models[1]"),
        (1, "models[2]"),
        (4, "verbs[1]"),
        (5, "verbs[2]"),
        (6, "versions"),
        (7, "label"),
        (8, "signatures[0]"),
    ]
    messages = [message for _, _, message in problems]
    assert '(did you mean "predict"?)' in messages[2]
    assert messages[4] == 'expected a list, got "x"'
    assert messages[5] == 'no such field (did you mean "labels"?)'
    assert 'write it in quotes, "1.5"' in messages[6]


def test_what_is_missing_is_named_with_what_it_should_be() -> None:
    assert wrong(routes.RouteSpec, "timeout: 5s") == [
        (1, "models", "is missing: expected list of model name or glob"),
    ]
    assert wrong(fields.TokenSubject, "claims: {}") == [(1, "issuer", "is missing: expected name")]


def test_a_missing_field_is_blamed_on_the_line_of_what_it_is_missing_from() -> None:
    assert wrong(sidecars.SidecarSpec, "admin: {}\ninbound:\n  listen: '[::]:1'\n")[0][:2] == (2, "inbound.server")


def test_null_is_nothing_where_nothing_is_allowed() -> None:
    found, problems = read(routes.RouteSpec, "models: [a]\nserver: s\ntimeout: null\n")
    assert (found.timeout, problems) == (None, [])
    assert wrong(fields.TokenSubject, "claims: {}\nissuer:\n") == [
        (2, "issuer", 'expected a name in lower-case letters, digits, "-" and ".", got nothing (null)')
    ]
    assert wrong(routes.RouteSpec, "models:\nserver: s") == [(1, "models", "expected a list, got nothing (null)")]


def test_keys_are_read_as_their_type_says() -> None:
    found, problems = read(routes.Match, "headers: {x-tier: gold, x-1: '2'}")
    assert (found.headers, problems) == ({"x-tier": "gold", "x-1": "2"}, [])
    assert wrong(routes.Match, "headers:\n  x-a: b\n  X-Tier: gold\n  'a b': ''\n") == [
        (3, "headers", 'expected a header name in lower case, got "X-Tier"'),
        (4, "headers", 'expected a header name in lower case, got "a b"'),
        (4, "headers.a b", 'expected 1 to 1024 printable characters, got ""'),
    ]
    assert wrong(routes.RouteSpec, "models: [a]\nlabels: {'': 1, canary: 1.5}\n") == [
        (2, "labels", 'expected 1 to 1024 printable characters, got ""'),
        (2, "labels.canary", "expected a whole number or text, got 1.5: write text in quotes"),
    ]


def test_a_whole_number_is_a_number_too() -> None:
    found, problems = read(servers.EjectionSettings, "deviations: 2")
    assert (found.deviations, type(found.deviations), problems) == (2.0, float, [])
    assert wrong(servers.EjectionSettings, "deviations: 11") == [(1, "deviations", "11 is too large: at most 10")]
    assert wrong(servers.EjectionSettings, "deviations: true") == [(1, "deviations", "expected number, got true")]
    assert wrong(routes.Compare, "absolute: -0.5") == [(1, "absolute", "-0.5 is too small: at least 0")]


def test_bounds() -> None:
    assert wrong(
        schema.MeshLimits, "headerBytes: 1KiB\nheaderCount: 1001\nstreams: 0\nbodyBytes: 0\nheadTimeout: 0\n"
    ) == [
        (2, "headerCount", "1001 is too large: at most 1,000"),
        (3, "streams", "0 is not between 1 and 1,000,000"),
        (4, "bodyBytes", "0 is too small: at least 1"),
        (5, "headTimeout", "must be greater than 0; omit the field to disable the limit"),
    ]


def test_an_empty_list_where_one_is_needed() -> None:
    assert wrong(schema.RoleSpec, "rules: []") == [(1, "rules", "an empty list: expected mapping, one or more")]


def test_types_are_not_bent() -> None:
    assert wrong(sidecars.Inbound, "server: s\nforwardToken: 1\nforwardIdentity: 'true'\n") == [
        (2, "forwardToken", "expected true or false, got 1"),
        (3, "forwardIdentity", 'expected true or false, got "true"'),
    ]
    assert wrong(schema.Tls, "minVersion: 1.3") == [
        (1, "minVersion", 'expected "1.3" or "1.2", got 1.3: write it in quotes, "1.3"')
    ]


def test_claims_are_text_numbers_and_booleans() -> None:
    found, _ = read(fields.TokenSubject, "issuer: i\nclaims: {a: x, b: 1, c: true}")
    assert found.claims == {"a": "x", "b": 1, "c": True}
    problems = wrong(fields.TokenSubject, "issuer: i\nclaims: {a: [x], b: 1.5, c: null}")
    assert [field for _, field, _ in problems] == ["claims.a", "claims.b", "claims.c"]


def test_what_is_inline_comes_as_it_is() -> None:
    found, _ = read(schema.KeySource, "inline: {keys: [{kty: RSA, 'n': eA, e: AQAB, x5c: [a, null, 1, {b: 2.5}]}]}")
    assert found.inline == {"keys": [{"kty": "RSA", "n": "eA", "e": "AQAB", "x5c": ["a", None, 1, {"b": 2.5}]}]}
    problems = wrong(schema.KeySource, "inline: {keys: [{kty: EC, x: on}]}")
    assert problems[0][:2] == (1, "inline.keys[0].x")


def test_paths_start_from_the_folder_of_the_document() -> None:
    found, _ = read(sidecars.IdentityFiles, "{certificate: a.pem, key: ../b.pem, trustBundle: /c.pem}")
    assert found == sidecars.IdentityFiles(
        certificate="/etc/mesh/a.pem", key="/etc/mesh/../b.pem", trust_bundle="/c.pem"
    )
    found, _ = read(sidecars.SidecarSpec, "{inbound: {server: s}, accessLog: ./log}")
    assert found.access_log == "/etc/mesh/log"
    found, _ = read(sidecars.SidecarSpec, "{inbound: {server: s}, accessLog: stdout}")
    assert found.access_log == "stdout"


def test_what_is_broken_is_reported_once() -> None:
    assert len(wrong(schema.Metadata, "name: on")) == 1
    assert len(wrong(schema.Metadata, "name: a\nlabels: {a: on}")) == 1


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_field_that_was_renamed_is_named(old: str, new: str) -> None:
    assert new in {name.encode_name for name in inspect.type_info(schema.MeshLimits).fields}  # type: ignore[attr-defined]
    assert wrong(schema.MeshLimits, f"{old}: 1MiB") == [(1, old, f'no such field: it is called "{new}" now')]


def test_a_check_across_fields_waits_for_the_fields() -> None:
    problems = wrong(schema.MeshLimits, "scanBufferBytes: 2MiB\nscanBufferTotalBytes: 1MiB")
    assert problems == [(1, "", '"scanBufferBytes" is one request\'s share and cannot be above "scanBufferTotalBytes"')]
    assert len(wrong(schema.MeshLimits, "scanBufferBytes: 2MiB\nscanBufferTotalBytes: x")) == 1


@pytest.mark.parametrize("text", ["[]", "x", "1", "true"])
def test_a_struct_is_a_mapping(text: str) -> None:
    ((_, field, message),) = wrong(schema.Tls, text)
    assert field == ""
    assert message.startswith("expected a mapping, got ")


def test_every_field_of_the_schema_can_be_named_in_words() -> None:
    """Also proves that `convert` knows every type that the schema uses."""
    seen = set()

    def visit(struct: type[Any]) -> None:
        info = inspect.type_info(struct)
        assert isinstance(info, inspect.StructType)
        for field in info.fields:
            assert words(field.type)
            seen.add(field.encode_name)
            if below := is_struct(field.type):
                visit(below)

    for kind in schema.KINDS:
        visit(kind)
    assert {"spiffeId", "scanBufferBytes", "trustBundle", "caFile"} <= seen


def test_a_text_or_a_mapping() -> None:
    found, problems = read(
        routes.Match, "headers:\n  a: x\n  b: {prefix: x}\n  c: {regex: 'a|b'}\n  d: {present: false}\n"
    )
    assert problems == []
    assert found.headers == {
        "a": "x",
        "b": fields.TextMatch(prefix="x"),
        "c": fields.TextMatch(regex="a|b"),
        "d": fields.TextMatch(present=False),
    }


@pytest.mark.parametrize(
    ("written", "where", "message"),
    [
        ("3", "headers.a", 'expected text, got 3: write it in quotes, "3"'),
        ("[x]", "headers.a", "expected text or mapping, got a list"),
        ("{prefx: x}", "headers.a.prefx", 'no such field (did you mean "prefix"?)'),
        ("{prefix: x, suffix: z}", "headers.a", 'expected one of "exact"'),
        ("{}", "headers.a", 'expected one of "exact"'),
        ("{prefix: 3}", "headers.a.prefix", "expected text, got 3"),
        ("{regex: 'ab('}", "headers.a.regex", 'at character 3: "(" is not closed'),
        ("{regex: '.*a.{20}'}", "headers.a.regex", "its table would be too large"),
    ],
)
def test_a_text_or_a_mapping_that_is_wrong(written: str, where: str, message: str) -> None:
    ((line, field, found),) = wrong(routes.Match, f"headers:\n  b: x\n  a: {written}\n")
    assert (line, field) == (3, where)
    assert message in found
