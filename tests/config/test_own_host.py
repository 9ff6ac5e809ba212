"""Documents from elsewhere on the host of a sidecar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from meshproxy.config import schema
from meshproxy.config.own_host import in_folder, misfits
from meshproxy.config.sent import SentKind

HOME = Path("/home")
META = {"metadata": {"name": "x"}}
FULL: list[dict[str, Any]] = [
    {
        "kind": "MeshConfig",
        **META,
        "spec": {
            "trustDomain": "d.example",
            "trustDomains": [
                {"name": "e.example", "bundle": {"file": "PATH"}},
                {"name": "f.example"},
                {"name": "g.example", "bundle": {"inline": "certificates"}},
            ],
            "issuers": [
                {"name": "a", "issuer": "a", "audiences": ["m"], "keys": {"file": "PATH"}},
                {
                    "name": "b",
                    "issuer": "b",
                    "audiences": ["m"],
                    "keys": {"url": "https://b/"},
                    "caFile": "PATH",
                    "bearerTokenFile": "PATH",
                },
            ],
            "aws": {"callerIdentity": {"audience": "a", "endpoints": ["sts.example"], "caFile": "PATH"}},
        },
    },
    {
        "kind": "ModelServer",
        **META,
        "spec": {
            "endpoints": [{"rest": "unix:PATH", "grpc": "unix:PATH"}, {"rest": "a:1"}],
            "tls": {
                "rest": {"caFile": "PATH", "serverName": "a"},
                "grpc": {"certificate": "PATH", "key": "PATH", "serverName": "a"},
            },
        },
    },
]
"""Every field that is a path."""


def fields_with_paths(kind: inspect.Type, seen: frozenset[object] = frozenset()) -> int:
    """How many fields of a document are paths, or may be."""
    match kind:
        case inspect.StructType() if kind.cls not in seen:
            return sum(fields_with_paths(field.type, seen | {kind.cls}) for field in kind.fields)
        case inspect.Metadata() if "resolve" in (kind.extra or {}):
            return 1
        case inspect.Metadata():
            return fields_with_paths(kind.type, seen)
        case inspect.VarTupleType():
            return fields_with_paths(kind.item_type, seen)
        case inspect.DictType():
            return fields_with_paths(kind.value_type, seen)
        case inspect.UnionType():
            return sum(fields_with_paths(each, seen) for each in kind.types)
        case _:
            return 0


def paths_in(document: dict[str, Any], path: str) -> SentKind:
    text = msgspec.json.encode(document).replace(b"PATH", path.encode())
    return msgspec.json.decode(text, type=SentKind)


def test_every_relative_path_starts_in_the_folder() -> None:
    for document in FULL:
        relative, absolute = paths_in(document, "there/x"), paths_in(document, "/home/there/x")
        assert in_folder(relative, HOME) == absolute
        assert in_folder(absolute, HOME) == absolute
        kind = inspect.type_info(type(relative))
        # In both halves of `tls` are three, of which two and one are written above.
        twice = 3 if document["kind"] == "ModelServer" else 0
        assert msgspec.json.encode(document).count(b"PATH") + twice == fields_with_paths(kind)


def test_others_have_none() -> None:
    for kind in (schema.ModelRole, schema.ModelRoleBinding, schema.ModelRoute):
        assert fields_with_paths(inspect.type_info(kind)) == 0
    role = schema.ModelRole(metadata=schema.Metadata("r"), spec=schema.RoleSpec((schema.Rule(("*",), ("predict",)),)))
    assert in_folder(role, HOME) is role


def test_a_socket_in_a_folder_that_is_too_long() -> None:
    with pytest.raises(ValueError, match="at most 107 bytes"):
        in_folder(paths_in(FULL[1], "x" * 40), Path("/") / ("y" * 90))


def sidecar(**spec: Any) -> schema.Sidecar:
    return msgspec.convert({"metadata": {"name": "own"}, "kind": "Sidecar", "spec": spec}, schema.Sidecar)


def found(own: schema.Sidecar, *documents: dict[str, Any], **mesh: Any) -> list[str]:
    config = msgspec.convert(
        {"kind": "MeshConfig", **META, "spec": {"trustDomain": "d.example", **mesh}}, schema.MeshConfig
    )
    decoded = [msgspec.convert(document, SentKind) for document in documents]
    servers = [each for each in decoded if isinstance(each, schema.ModelServer)]
    routes = [each for each in decoded if isinstance(each, schema.ModelRoute)]
    return [str(problem) for problem in misfits(own, config, servers, routes)]


def server(name: str) -> dict[str, Any]:
    return {"kind": "ModelServer", "metadata": {"name": name}, "spec": {"endpoints": [{"rest": "a:1"}]}}


def route(**spec: Any) -> dict[str, Any]:
    return {"kind": "ModelRoute", **META, "spec": {"models": ["a"], **spec}}


def test_servers_that_are_missing() -> None:
    own = sidecar(inbound={"server": "resnet"}, outbound={"server": "bert"})
    assert found(own, server("resnet"), server("bert")) == []
    assert found(own, server("resnett")) == [
        'Sidecar/own: spec.inbound.server: no ModelServer named "resnet" (did you mean "resnett"?)',
        'Sidecar/own: spec.outbound.server: no ModelServer named "bert"',
    ]


def test_bundles_that_nobody_delivers() -> None:
    own = sidecar(outbound={})
    other = [{"name": "e.example"}]
    assert found(own, trustDomains=[{"name": "e.example", "bundle": {"file": "x"}}]) == []
    assert found(own, trustDomains=other) == [
        "MeshConfig/x: spec.trustDomains[0].bundle: is missing: Sidecar/own has no workloadApi that delivers it"
    ]
    assert found(own, mtls="disabled") == []
    with_agent = sidecar(outbound={}, identity={"workloadApi": {"socket": "agent.sock"}})
    assert found(with_agent, trustDomains=other) == []


@pytest.mark.parametrize(
    ("spec", "is_wrong"),
    [
        ({"mirror": {"server": "s"}}, True),
        ({"mirror": {"server": "s", "model": "a"}}, True),
        ({"mirror": {"server": "s", "model": "b"}}, False),
        ({"mirror": {"server": "s", "version": "2"}}, False),
        ({"mirror": {"server": "t"}}, False),
        ({"mirror": {"server": "s"}, "server": "t"}, False),
        ({"mirror": {"server": "s"}, "directions": ["outbound"]}, False),
        ({"mirror": {"server": "s"}, "split": [{"server": "t"}]}, False),
        ({"mirror": {"server": "s"}, "split": [{"server": "t"}, {"weight": 1}]}, False),
        ({"mirror": {"server": "s"}, "split": [{"server": "t"}, {"weight": 0}]}, False),
        ({"mirror": {"server": "s"}, "split": [{"server": "t", "weight": 0}, {"weight": 1}]}, True),
        ({}, False),
    ],
)
def test_mirrors_to_oneself(spec: dict[str, Any], is_wrong: bool) -> None:
    problems = found(sidecar(inbound={"server": "s"}), server("s"), server("t"), route(**spec))
    assert problems == (["ModelRoute/x: spec.mirror: mirrors calls to where they already go"] if is_wrong else [])
    assert found(sidecar(outbound={}), server("s"), server("t"), route(**spec)) == []
