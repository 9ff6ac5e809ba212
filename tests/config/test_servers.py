"""`ModelServer`: what a struct by itself knows to be wrong, and what it takes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meshproxy.config import servers

AT = "a:1"
SIDECAR = {"host": "a", "port": 1}
SERVICE = {"namespace": "m", "name": "a", "grpc": "grpc"}
WORKLOAD = {"namespace": "a", "serviceAccount": "b"}


def test_defaults_pass_their_own_bounds() -> None:
    for struct in (servers.Balancing, servers.BreakerSettings, servers.EjectionSettings, servers.Health, servers.Key):
        assert msgspec.convert(msgspec.to_builtins(struct()), struct) == struct()


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (servers.Endpoint, {}),
        (servers.Endpoint, {"locality": "a"}),
        (servers.Endpoint, {"sidecar": SIDECAR, "rest": AT}),
        (servers.Endpoint, {"sidecar": SIDECAR, "grpc": AT}),
        (servers.Dns, {"name": "a"}),
        (servers.Dns, {"name": "a", "srv": "grpc", "rest": 1}),
        (servers.Dns, {"name": "a", "sidecar": 1, "grpc": 2}),
        (servers.Dns, {"name": "a", "grpc": 2, "minRefresh": 3, "maxRefresh": 2}),
        (servers.Service, {"namespace": "m", "name": "a"}),
        (servers.Service, {"namespace": "m", "name": "a", "sidecar": "mesh", "grpc": "grpc"}),
        (servers.Service, {"name": "a", "grpc": "grpc"}),
        (servers.Key, {"by": "header"}),
        (servers.Key, {"header": "x-user"}),
        (servers.BreakerSettings, {"openFor": 2, "openForMost": 1}),
        (servers.EjectionSettings, {"baseTime": 2, "maxTime": 1}),
        (servers.EjectionSettings, {"deviations": 0}),
        (servers.ServerSpec, {}),
        (servers.ServerSpec, {"endpoints": []}),
        (servers.ServerSpec, {"endpoints": [{"rest": AT}], "dns": {"name": "a", "rest": 1}}),
        (servers.ServerSpec, {"endpoints": [{"rest": AT}], "service": SERVICE}),
        (servers.ServerSpec, {"dns": {"name": "a", "rest": 1}, "service": SERVICE}),
        (servers.ServerSpec, {"endpoints": [{"sidecar": SIDECAR}]}),
        (servers.ServerSpec, {"service": {"namespace": "m", "name": "a", "sidecar": "mesh"}}),
        (servers.ServerSpec, {"service": SERVICE, "tls": {"rest": {}}}),
        (servers.ServerSpec, {"dns": {"name": "a", "sidecar": 1}}),
        (servers.ServerSpec, {"dns": {"name": "a", "srv": "sidecar"}}),
        (servers.ServerSpec, {"endpoints": [{"sidecar": SIDECAR}], "workload": {"namespace": "a"}}),
        (servers.NamedTls, {"certificate": "a.pem"}),
        (servers.NamedTls, {"key": "a.pem"}),
        (servers.ServerTls, {}),
        (servers.ServerSpec, {"endpoints": [{"rest": AT}], "tls": {"grpc": {}}}),
        (servers.ServerSpec, {"endpoints": [{"grpc": AT}], "tls": {"rest": {}, "grpc": {}}}),
        (servers.ServerSpec, {"endpoints": [{"grpc": "unix:/a"}], "tls": {"grpc": {}}}),
        (servers.ServerSpec, {"endpoints": [{"grpc": AT}, {"grpc": "unix:/a"}], "tls": {"grpc": {}}}),
        (servers.ServerSpec, {"endpoints": [{"sidecar": SIDECAR}], "workload": WORKLOAD, "tls": {"grpc": {}}}),
        (servers.ServerSpec, {"dns": {"name": "a", "sidecar": 1}, "workload": WORKLOAD, "tls": {"grpc": {}}}),
        (servers.ServerSpec, {"dns": {"name": "a", "rest": 1}, "tls": {"grpc": {}}}),
        (servers.ServerSpec, {"dns": {"name": "a", "srv": "rest"}, "tls": {"grpc": {}}}),
        (servers.ServerSpec, {"endpoints": [{"rest": AT}], "health": {"check": "grpc"}}),
        (servers.ServerSpec, {"endpoints": [{"rest": AT, "grpc": AT}, {"grpc": AT}], "health": {"check": "http"}}),
        (servers.ServerSpec, {"dns": {"name": "a", "grpc": 1}, "health": {"check": "http"}}),
        (servers.ServerSpec, {"dns": {"name": "a", "srv": "rest"}, "health": {"check": "grpc"}}),
        (servers.ServerSpec, {"service": SERVICE, "health": {"check": "http"}}),
    ],
)
def test_what_a_struct_knows_to_be_wrong(kind: type[Any], given: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(given, kind)


@pytest.mark.parametrize("name", ["header", "cookie"])
def test_a_key_says_which_part_is_missing_or_too_much(name: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=f'"by: {name}" requires "{name}"'):
        msgspec.convert({"by": name}, servers.Key)
    given = {"header": "x-user", "cookie": {"name": "s"}}[name]
    with pytest.raises(msgspec.ValidationError, match=f'"{name}" is used with "by: {name}" only'):
        msgspec.convert({"by": "caller", name: given}, servers.Key)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (servers.Endpoint, {"grpc": AT}),
        (servers.Endpoint, {"sidecar": SIDECAR, "locality": "a"}),
        (servers.Dns, {"name": "a", "rest": 1, "grpc": 2}),
        (servers.Dns, {"name": "a", "srv": "sidecar"}),
        (servers.Key, {"by": "header", "header": "x-user"}),
        (servers.ServerSpec, {"endpoints": [{"sidecar": SIDECAR}], "workload": {"spiffeId": "spiffe://d/a"}}),
        (servers.ServerSpec, {"dns": {"name": "a", "srv": "sidecar"}, "workload": WORKLOAD}),
        (servers.ServerSpec, {"dns": {"name": "a", "rest": 1}, "hosts": ["a"]}),
        (servers.ServerSpec, {"endpoints": [{"rest": AT, "grpc": AT}], "tls": {"grpc": {}}}),
        (servers.ServerSpec, {"endpoints": [{"rest": AT}, {"grpc": AT}], "tls": {"grpc": {}, "rest": {}}}),
        (servers.ServerSpec, {"endpoints": [{"grpc": "unix:/a"}], "tls": {"grpc": {"serverName": "a"}}}),
        (servers.ServerSpec, {"endpoints": [{"rest": "unix:/a", "grpc": AT}], "tls": {"grpc": {}}}),
        (servers.ServerSpec, {"dns": {"name": "a", "srv": "grpc"}, "tls": {"grpc": {}}}),
        (servers.Service, {"namespace": "m", "name": "a", "grpc": ""}),
        (servers.ServerSpec, {"service": SERVICE, "tls": {"grpc": {}}}),
        (servers.ServerSpec, {"service": {"namespace": "m", "name": "a", "sidecar": "mesh"}, "workload": WORKLOAD}),
        (servers.NamedTls, {"certificate": "a.pem", "key": "a.pem"}),
        (servers.ServerSpec, {"endpoints": [{"rest": AT}], "health": {"check": "http", "path": "/healthz"}}),
        (servers.ServerSpec, {"endpoints": [{"rest": AT}], "health": {"check": "grpc", "enabled": False}}),
        (servers.ServerSpec, {"endpoints": [{"rest": AT}, {"grpc": AT}], "health": {}}),
        (servers.ServerSpec, {"dns": {"name": "a", "srv": "grpc"}, "health": {"check": "grpc"}}),
        (servers.ServerSpec, {"dns": {"name": "a", "sidecar": 1}, "workload": WORKLOAD, "health": {"check": "grpc"}}),
    ],
)
def test_what_a_struct_takes(kind: type[Any], given: dict[str, Any]) -> None:
    assert isinstance(msgspec.convert(given, kind), kind)


def test_every_field_can_be_sent_to_another_process() -> None:
    spec = servers.ServerSpec(dns=servers.Dns(name="a", rest=1), health=servers.Health())
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=servers.ServerSpec) == spec


def test_a_service_by_its_names() -> None:
    service = servers.Service(namespace="models", name="resnet", grpc="grpc")
    assert (service.key, service.host) == ("models/resnet", "resnet.models.svc")
