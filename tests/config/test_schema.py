"""The schema: what a struct by itself knows to be wrong, and that it speaks the words of the rest of the program."""

from __future__ import annotations

import pickle
import re
from typing import Any, get_args

import msgspec
import pytest

from meshproxy.codec import limits
from meshproxy.config import fields, routes, schema, servers
from meshproxy.config.load import load
from meshproxy.config.values import Address
from meshproxy.inference.call import Verb
from meshproxy.refusal import GrpcStatus
from meshproxy.routing.failure import Failure

AT = {"host": "a", "port": 1}
WORKLOAD = {"namespace": "a", "serviceAccount": "b"}
EC_KEY = {"kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ"}


def test_the_verbs_are_those_of_calls() -> None:
    assert get_args(fields.VerbWord) == tuple(verb.value for verb in Verb)


def test_what_is_tried_again_are_failures() -> None:
    """All of them but those that are never tried again."""
    never = {Failure.ERROR, Failure.OVERLOADED}
    assert set(get_args(routes.RetryWord)) == {failure.value for failure in Failure if failure not in never}


def test_a_fault_can_be_every_status_but_ok() -> None:
    assert get_args(routes.GrpcStatusWord) == tuple(status.name for status in GrpcStatus if status)


def test_limits_of_documents_are_those_of_the_codecs_and_more() -> None:
    assert isinstance(schema.MeshLimits(), limits.Limits)
    assert (
        schema.MeshLimits.__struct_fields__[: len(limits.Limits.__struct_fields__)] == limits.Limits.__struct_fields__
    )


def test_defaults_pass_their_own_bounds() -> None:
    for struct in (
        schema.MeshLimits,
        servers.Balancing,
        servers.BreakerSettings,
        servers.EjectionSettings,
        servers.Health,
        servers.Key,
        routes.Retries,
        routes.Compare,
        routes.Concurrency,
    ):
        assert msgspec.convert(msgspec.to_builtins(struct()), struct) == struct()


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
        (schema.MeshLimits, {"scanBufferBytes": 2048, "scanBufferTotalBytes": 1024}),
        (schema.Rule, {"models": ["a"], "verbs": ["predict"], "versions": ["1"], "labels": ["a"]}),
        (fields.WorkloadSubject, {}),
        (fields.WorkloadSubject, {"serviceAccount": "a"}),
        (fields.WorkloadSubject, {"spiffeId": "spiffe://d/a", "namespace": "a"}),
        (fields.TokenSubject, {"issuer": "a", "claims": {"": "x"}}),
        (fields.Subject, {}),
        (servers.Endpoint, {}),
        (servers.Endpoint, {"locality": "a"}),
        (servers.Endpoint, {"sidecar": AT, "rest": AT}),
        (servers.Endpoint, {"sidecar": AT, "grpc": AT}),
        (servers.Dns, {"name": "a"}),
        (servers.Dns, {"name": "a", "srv": "grpc", "rest": 1}),
        (servers.Dns, {"name": "a", "sidecar": 1, "grpc": 2}),
        (servers.Dns, {"name": "a", "grpc": 2, "minRefresh": 3, "maxRefresh": 2}),
        (servers.Key, {"by": "header"}),
        (servers.Key, {"header": "x-user"}),
        (servers.BreakerSettings, {"openFor": 2, "openForMost": 1}),
        (servers.EjectionSettings, {"baseTime": 2, "maxTime": 1}),
        (servers.EjectionSettings, {"deviations": 0}),
        (servers.ServerSpec, {}),
        (servers.ServerSpec, {"endpoints": []}),
        (servers.ServerSpec, {"endpoints": [{"rest": AT}], "dns": {"name": "a", "rest": 1}}),
        (servers.ServerSpec, {"endpoints": [{"sidecar": AT}]}),
        (servers.ServerSpec, {"dns": {"name": "a", "sidecar": 1}}),
        (servers.ServerSpec, {"dns": {"name": "a", "srv": "sidecar"}}),
        (servers.ServerSpec, {"endpoints": [{"sidecar": AT}], "workload": {"namespace": "a"}}),
        (routes.Match, {}),
        (routes.Match, {"headers": {}}),
        (routes.Destination, {"version": "1", "label": "a"}),
        (routes.Retries, {"backoff": 2, "backoffMax": 1}),
        (routes.Retries, {"attempts": 11}),
        (routes.Mirror, {}),
        (routes.Mirror, {"percent": 50}),
        (routes.Mirror, {"version": "1", "label": "a"}),
        (routes.Fault, {}),
        (routes.Concurrency, {"initial": 1}),
        (routes.Concurrency, {"max": 8}),
        (routes.Concurrency, {"queue": -1}),
        (routes.RateLimit, {}),
        (routes.RateLimit, {"per": "caller", "burst": 2}),
        (routes.RateLimit, {"bytes": 0}),
        (routes.RouteSpec, {"models": []}),
        (routes.RouteSpec, {"models": ["a"], "directions": []}),
        (routes.RouteSpec, {"models": ["a"], "split": [{"weight": 0}, {"weight": 0, "version": "1"}]}),
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
        (fields.WorkloadSubject, {"namespace": "a", "serviceAccount": "b"}),
        (servers.Endpoint, {"grpc": AT}),
        (servers.Endpoint, {"sidecar": AT, "locality": "a"}),
        (servers.Dns, {"name": "a", "rest": 1, "grpc": 2}),
        (servers.Dns, {"name": "a", "srv": "sidecar"}),
        (servers.Key, {"by": "header", "header": "x-user"}),
        (servers.ServerSpec, {"endpoints": [{"sidecar": AT}], "workload": {"spiffeId": "spiffe://d/a"}}),
        (servers.ServerSpec, {"dns": {"name": "a", "srv": "sidecar"}, "workload": WORKLOAD}),
        (servers.ServerSpec, {"dns": {"name": "a", "rest": 1}, "hosts": ["a"]}),
        (routes.Match, {"headers": {"a": "b"}}),
        (routes.Match, {"caller": {"workload": WORKLOAD}}),
        (routes.Destination, {}),
        (routes.Mirror, {"label": "a"}),
        (routes.Fault, {"abort": {"percent": 1}}),
        (routes.Concurrency, {"limit": 1}),
        (routes.RateLimit, {"bytes": 1 << 30}),
        (routes.RouteSpec, {"models": ["a"], "split": [{"weight": 0}, {"version": "1"}]}),
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


def test_every_field_of_servers_and_routes_can_be_sent_to_another_process() -> None:
    subject = fields.Subject(workload=fields.WorkloadSubject(namespace="a"))
    route = routes.RouteSpec(
        models=("a",),
        match=(routes.Match(headers={"x-a": "b"}, caller=subject),),
        split=(routes.Destination(version="1"), routes.Destination(label="c")),
        labels={"c": "2"},
        sticky=servers.Key(),
        mirror=routes.Mirror(version="3", compare=routes.Compare()),
        fault=routes.Fault(delay=routes.Delay(percent=1.0, duration=1.0), abort=routes.Abort(percent=1.0)),
        retries=routes.Retries(hedge_after=0.1),
        concurrency=routes.Concurrency(),
        rate_limits=(routes.RateLimit(requests=1.0),),
    )
    server = servers.ServerSpec(dns=servers.Dns(name="a", rest=1), health=servers.Health())
    for spec in (route, server):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=type(spec)) == spec


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
