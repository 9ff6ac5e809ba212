"""The schema of the mesh, of roles and of sidecars: what a struct by itself knows to be wrong, and what it takes."""

from __future__ import annotations

import pickle
import re
from typing import Any

import msgspec
import pytest

from meshproxy.codec import limits
from meshproxy.config import routes, schema
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
        (schema.MeshSpec, {"trustDomain": "a", "mtls": "disabled", "trustDomains": [{"name": "b"}]}),
        (schema.Issuer, {"name": "a", "issuer": "https://a", "audiences": ["a"], "requiredClaims": {"": "x"}}),
        (schema.Issuer, {"name": "a", "issuer": "https://a", "audiences": ["a"], "bearerTokenFile": "b"}),
        (schema.MeshLimits, {"scanBufferBytes": 2048, "scanBufferTotalBytes": 1024}),
        (schema.Rule, {"models": ["a"], "verbs": ["predict"], "versions": ["1"], "labels": ["a"]}),
        (schema.SidecarSpec, {}),
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
        (schema.SidecarSpec, {"outbound": {}}),
        (schema.SidecarSpec, {"inbound": {"server": "a"}}),
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
    assert schema.Outbound().listen == Address("127.0.0.1", 18501)
    assert schema.SidecarSpec(outbound=schema.Outbound()).inbound is None


def test_nothing_can_be_changed() -> None:
    documents = load(["deploy/examples/first.yaml"])
    with pytest.raises(AttributeError):
        documents.mesh.spec.mtls = "disabled"  # type: ignore[misc]


def spec_of(**given: Any) -> schema.SidecarSpec:
    """A sidecar's spec with `outbound` and whatever else."""
    return msgspec.convert({"outbound": {}, **given}, schema.SidecarSpec)


def test_workers_have_admin_ports_of_their_own() -> None:
    anywhere = {"host": "127.0.0.1", "port": 0}
    assert spec_of().worker_ports == ()
    assert spec_of(workers=3).worker_ports == (18503, 18504, 18505)
    assert spec_of(workers=2, admin={"firstWorkerPort": 9000}).worker_ports == (9000, 9001)
    assert spec_of(workers=2, admin={"listen": anywhere}).worker_ports == (0, 0)
    assert spec_of(workers=7).worker_ports[-1] == 18509


@pytest.mark.parametrize(
    ("given", "worker", "reason"),
    [
        ({"workers": 8}, 7, "port 18510 is used by the control plane"),
        ({"workers": 2, "admin": {"firstWorkerPort": 18511}}, 0, "port 18511 is used by the control plane"),
        ({"workers": 2, "admin": {"firstWorkerPort": 18500}}, 1, "port 18501 is outbound.listen"),
        ({"workers": 2, "admin": {"firstWorkerPort": 18502}}, 0, "port 18502 is admin.listen"),
        (
            {"workers": 2, "inbound": {"server": "a", "listen": {"host": "::", "port": 18504}}},
            1,
            "port 18504 is inbound.listen",
        ),
        ({"workers": 3, "admin": {"firstWorkerPort": 65_534}}, 2, "65536 is not a port"),
    ],
)
def test_a_worker_port_that_is_taken_is_refused(given: dict[str, Any], worker: int, reason: str) -> None:
    message = f"no admin port for worker {worker}: {reason}; set admin.firstWorkerPort"
    with pytest.raises(msgspec.ValidationError, match=re.escape(message)):
        spec_of(**given)
