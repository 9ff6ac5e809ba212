"""The schema of the mesh, of roles and of sidecars: what a struct by itself knows to be wrong, and what it takes."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import pytest

from meshproxy.codec import limits
from meshproxy.config import routes, schema, sidecars
from meshproxy.config.load import load
from meshproxy.config.values import Address

EC_KEY = {"kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ"}


def test_limits_of_documents_are_those_of_the_codecs_and_more() -> None:
    assert isinstance(schema.MeshLimits(), limits.Limits)
    ours = limits.Limits.__struct_fields__
    assert schema.MeshLimits.__struct_fields__[: len(ours)] == ours


def test_defaults_pass_their_own_bounds() -> None:
    assert msgspec.convert(msgspec.to_builtins(schema.MeshLimits()), schema.MeshLimits) == schema.MeshLimits()


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (schema.KeySource, {}),
        (schema.KeySource, {"file": "a", "url": "https://a"}),
        (schema.KeySource, {"inline": {}}),
        (schema.KeySource, {"inline": {"keys": []}}),
        (schema.KeySource, {"inline": {"keys": ["x"]}}),
        (schema.KeySource, {"inline": {"keys": [EC_KEY, {**EC_KEY, "d": "eA"}]}}),
        (schema.KeySource, {"inline": {"keys": [{"kty": "oct", "k": "eA"}]}}),
        (schema.Issuer, {"name": "a", "issuer": "not-a-url", "audiences": ["a"]}),
        (schema.Issuer, {"name": "a", "issuer": "https://a", "audiences": ["a"], "caFile": "b", "keys": {"file": "a"}}),
        (schema.Issuer, {"name": "a", "issuer": "https://a"}),
        (schema.Issuer, {"name": "a", "issuer": "https://a", "audiences": []}),
        (schema.Issuer, {"name": "a", "issuer": "https://a", "requiredClaims": {"iss": "https://a"}}),
        (schema.Issuer, {"name": "a", "issuer": "https://a", "requiredClaims": {"aud": "models"}}),
        (schema.Issuer, {"name": "a", "issuer": "https://a", "requiredClaims": {"x": {"present": True}}}),
        (schema.MeshSpec, {"trustDomain": "a", "trustDomains": [{"name": "a", "bundle": {"file": "a.pem"}}]}),
        (schema.MeshSpec, {"trustDomain": "a", "trustDomains": [{"name": "b", "bundle": {"file": "b.pem"}}] * 2}),
        (schema.TrustBundle, {}),
        (schema.TrustBundle, {"file": "a.pem", "inline": "b"}),
        (schema.MeshSpec, {"trustDomain": "a", "mtls": "disabled", "trustDomains": [{"name": "b"}]}),
        (schema.Issuer, {"name": "a", "issuer": "https://a", "audiences": ["a"], "requiredClaims": {"": "x"}}),
        (schema.Issuer, {"name": "a", "issuer": "https://a", "audiences": ["a"], "bearerTokenFile": "b"}),
        (schema.MeshLimits, {"scanBufferBytes": 2048, "scanBufferTotalBytes": 1024}),
        (schema.Rule, {"models": ["a"], "verbs": ["predict"], "versions": ["1"], "labels": ["a"]}),
        (sidecars.SidecarSpec, {}),
    ],
)
def test_what_a_struct_knows_to_be_wrong(kind: type[Any], given: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(given, kind)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (schema.KeySource, {"inline": {"keys": [EC_KEY]}}),
        (
            schema.Issuer,
            {"name": "a", "issuer": "kubernetes/serviceaccount", "audiences": ["a"], "keys": {"file": "a"}},
        ),
        (schema.Issuer, {"name": "a", "issuer": "https://a", "audiences": ["a"], "caFile": "b"}),
        (
            schema.Issuer,
            {"name": "a", "issuer": "https://a", "audiences": ["a"], "caFile": "b", "bearerTokenFile": "c"},
        ),
        (schema.Issuer, {"name": "a", "issuer": "https://a", "requiredClaims": {"client_id": "app", "level": 3}}),
        (schema.Issuer, {"name": "a", "issuer": "https://a", "audiences": ["a"], "requiredClaims": {"x": True}}),
        (schema.Issuer, {"name": "a", "issuer": "https://a", "audiences": ["a"], "algorithms": ["Ed25519"]}),
        (sidecars.SidecarSpec, {"outbound": {}}),
        (sidecars.SidecarSpec, {"inbound": {"server": "a"}}),
    ],
)
def test_what_a_struct_takes(kind: type[Any], given: dict[str, Any]) -> None:
    assert isinstance(msgspec.convert(given, kind), kind)


def test_two_issuers_cannot_be_told_apart_by_one_name_or_url() -> None:
    issuer = {"name": "a", "issuer": "https://a", "audiences": ["a"]}
    for other in ({**issuer, "name": "b"}, {**issuer, "issuer": "https://b"}):
        with pytest.raises(msgspec.ValidationError, match="two issuers"):
            msgspec.convert({"trustDomain": "d", "issuers": [issuer, other]}, schema.MeshSpec)


def test_documents_can_be_sent_to_another_process() -> None:
    documents = load(["deploy/examples/first.yaml"])
    assert pickle.loads(pickle.dumps(documents)) == documents
    packed = msgspec.msgpack.encode(documents)
    assert msgspec.msgpack.decode(packed, type=schema.Documents) == documents


def test_inbound_and_outbound_calls_are_not_the_same() -> None:
    """What documents leave out is decided here."""
    spec = routes.RouteSpec(models=("a",))
    assert (spec.server, spec.directions, spec.priority) == (None, ("inbound", "outbound"), "default")
    assert sidecars.Outbound().listen == Address("127.0.0.1", 18501)
    assert sidecars.SidecarSpec(outbound=sidecars.Outbound()).inbound is None


def test_nothing_can_be_changed() -> None:
    documents = load(["deploy/examples/first.yaml"])
    with pytest.raises(AttributeError):
        documents.mesh.spec.mtls = "disabled"  # type: ignore[misc]
