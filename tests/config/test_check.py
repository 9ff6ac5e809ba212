"""What is wrong with a set of documents although each of them is right."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshproxy.config.check import Placed, check_set
from meshproxy.config.nodes import read_documents

MESH = "kind: MeshConfig\nmetadata: {name: m}\nspec: {trustDomain: d, issuers: [{name: corp}]}\n"
SIDECAR = "kind: Sidecar\nmetadata: {name: s}\nspec: {identity: {}, inbound: {server: local}}\n"
SERVER = "kind: ModelServer\nmetadata: {name: local}\nspec: {}\n"


def placed(*texts: str) -> Iterator[Placed]:
    for node in read_documents("---\n".join(texts), lambda *_: None):
        assert isinstance(node.value, dict)
        metadata = node.value["metadata"].value
        assert isinstance(metadata, dict)
        yield Placed(str(node.value["kind"].value), str(metadata["name"].value), "f", node)


def problems(*texts: str, is_whole: bool = True) -> list[str]:
    return [str(problem) for problem in check_set(list(placed(*texts)), is_whole=is_whole, where="folder")]


def test_a_complete_set() -> None:
    assert problems(MESH, SIDECAR, SERVER) == []


def test_what_must_be_there() -> None:
    assert problems(SERVER) == [
        "folder: no MeshConfig among the documents: exactly one is needed",
        "folder: no Sidecar among the documents: exactly one is needed",
    ]
    assert problems(SERVER, is_whole=False) == []


def test_what_must_not_be_there_twice() -> None:
    assert problems(MESH, MESH.replace("name: m", "name: other"), SIDECAR, SERVER, SERVER) == [
        "f:5: MeshConfig/other: a second MeshConfig; the first is MeshConfig/m at f:1",
        "f:17: ModelServer/local: metadata.name: duplicate name, first at f:13",
    ]


def test_kinds_do_not_share_their_names() -> None:
    role = "kind: ModelRole\nmetadata: {name: local}\nspec: {}\n"
    assert problems(MESH, SIDECAR, SERVER, role) == []


BINDING = "kind: ModelRoleBinding\nmetadata: {name: b}\nspec:\n  role: %s\n  subjects:\n  - token: {issuer: %s}\n"
ROLE = "kind: ModelRole\nmetadata: {name: reader}\nspec: {}\n"


def test_every_name_that_is_referred_to_exists() -> None:
    route = "kind: ModelRoute\nmetadata: {name: r}\nspec:\n  server: locol\n"
    found = problems(MESH, SIDECAR.replace("local", "remote"), SERVER, ROLE, BINDING % ("raeder", "crop"), route)
    assert found == [
        'f:7: Sidecar/s: spec.inbound.server: no ModelServer named "remote"',
        'f:20: ModelRoleBinding/b: spec.role: no ModelRole named "raeder" (did you mean "reader"?)',
        'f:22: ModelRoleBinding/b: spec.subjects[0].token.issuer: no issuer named "crop" (did you mean "corp"?)',
        'f:27: ModelRoute/r: spec.server: no ModelServer named "locol" (did you mean "local"?)',
    ]
    assert problems(MESH, SIDECAR, SERVER, ROLE, BINDING % ("reader", "corp")) == []


def test_what_may_stand_in_a_file_that_cannot_be_read_is_not_missed() -> None:
    assert problems(MESH, SIDECAR, BINDING % ("x", "y"), is_whole=False) == []


def test_an_iam_role_takes_an_issuer() -> None:
    binding = "kind: ModelRoleBinding\nmetadata: {name: b}\nspec: {role: reader, subjects: [{iamRole: x}]}\n"
    assert problems(MESH, SIDECAR, SERVER, ROLE, binding) == []
    (found,) = problems(MESH.replace(", issuers: [{name: corp}]", ""), SIDECAR, SERVER, ROLE, binding)
    assert "spec.subjects[0].iamRole: no caller can prove an IAM role" in found


def test_a_pattern_has_one_route() -> None:
    route = "kind: ModelRoute\nmetadata: {name: %s}\nspec: {server: local, models: [%s]}\n"
    (found,) = problems(MESH, SIDECAR, SERVER, route % ("a", "x, 'y*', x"), route % ("b", "z, 'y*'"))
    assert found.startswith('f:19: ModelRoute/b: spec.models[1]: "y*" already has a route, ModelRoute/a at f:13: ')


@pytest.mark.parametrize(
    ("mode", "needs_one"), [("strict", True), ("permissive", True), ("disabled", False), (None, True)]
)
def test_tls_takes_an_identity(mode: str | None, needs_one: bool) -> None:
    mesh = MESH if mode is None else MESH.replace("trustDomain: d", f"trustDomain: d, mtls: {mode}")
    found = problems(mesh, SIDECAR.replace("identity: {}, ", ""), SERVER)
    assert [problem.split(": ")[2] for problem in found] == (["spec.identity"] if needs_one else [])


@pytest.mark.parametrize(
    ("identity", "delivers"),
    [("identity: {}", False), ("identity: {workloadApi: {}}", True), ("controlPlane: {}", False)],
)
def test_each_trust_domain_has_a_bundle(identity: str, delivers: bool) -> None:
    mesh = MESH.replace("trustDomain: d", "trustDomain: d, trustDomains: [{name: a, bundle: {}}, {name: b}]")
    found = problems(mesh, SIDECAR.replace("identity: {}", identity), SERVER)
    expected = "spec.trustDomains[1].bundle: is missing: Sidecar/s has no workloadApi that delivers it"
    assert [problem.partition("MeshConfig/m: ")[2] for problem in found] == ([] if delivers else [expected])


ROUTE = "kind: ModelRoute\nmetadata: {name: %s}\nspec: {models: ['m*'], %s}\n"
OUTBOUND = "kind: Sidecar\nmetadata: {name: s}\nspec: {identity: {}, outbound: {server: local}}\n"


def test_every_server_of_a_route_exists() -> None:
    route = (
        "kind: ModelRoute\nmetadata: {name: r}\nspec:\n  split:\n  - {server: local}\n  - {server: lokal}\n"
        "  mirror: {server: shadow}\n  fallback: other\n"
    )
    assert problems(MESH, SIDECAR, SERVER, route) == [
        'f:18: ModelRoute/r: spec.split[1].server: no ModelServer named "lokal" (did you mean "local"?)',
        'f:19: ModelRoute/r: spec.mirror.server: no ModelServer named "shadow"',
        'f:20: ModelRoute/r: spec.fallback: no ModelServer named "other"',
    ]


def test_also_that_of_a_fallback_with_a_model() -> None:
    route = "kind: ModelRoute\nmetadata: {name: r}\nspec: {models: [m], fallback: {server: lokal, model: small}}\n"
    assert problems(MESH, SIDECAR, SERVER, route) == [
        'f:15: ModelRoute/r: spec.fallback.server: no ModelServer named "lokal" (did you mean "local"?)'
    ]


@pytest.mark.parametrize(
    ("spec", "does_nothing"),
    [
        ("mirror: {model: m}", True),
        ("mirror: {model: k}", False),
        ("split: [{model: m}, {model: k}], mirror: {model: k}", False),
        ("split: [{model: k}, {model: k}], mirror: {model: k}", True),
        ("split: [{model: k}], mirror: {server: local, model: m}", False),
        ("split: [{model: k, version: 2}], mirror: {model: k}", False),
        ("split: [{model: k, version: 2}], mirror: {model: k, version: 2}", True),
    ],
)
def test_a_copy_to_where_calls_go_anyway(spec: str, does_nothing: bool) -> None:
    route = f"kind: ModelRoute\nmetadata: {{name: r}}\nspec: {{models: [m], server: local, {spec}}}\n"
    found = [each.partition(": spec.")[2] for each in problems(MESH, SIDECAR, SERVER, route)]
    assert found == (["mirror: mirrors calls to where they already go"] if does_nothing else [])


def test_the_server_of_outbound_calls_exists() -> None:
    assert problems(MESH, OUTBOUND, SERVER) == []
    assert problems(MESH, OUTBOUND.replace("local", "locl"), SERVER) == [
        'f:7: Sidecar/s: spec.outbound.server: no ModelServer named "locl" (did you mean "local"?)'
    ]


def test_every_trust_domain_that_is_named_is_trusted() -> None:
    mesh = "kind: MeshConfig\nmetadata: {name: m}\nspec:\n  trustDomain: ours\n  trustDomains: [{name: theirs}]\n"
    workloads = (
        "  - workload: {trustDomain: ours}\n  - workload: {trustDomain: theirs}\n  - workload: {trustDomain: their}\n"
    )
    binding = "kind: ModelRoleBinding\nmetadata: {name: b}\nspec:\n  subjects:\n" + workloads
    server = "kind: ModelServer\nmetadata: {name: far}\nspec: {workload: {trustDomain: strange}}\n"
    found = [each for each in problems(mesh, SIDECAR, SERVER, binding, server) if "trust domain" in each]
    field = "spec.subjects[2].workload.trustDomain"
    assert found == [
        f'f:21: ModelRoleBinding/b: {field}: no trust domain named "their" (did you mean "theirs"?)',
        'f:25: ModelServer/far: spec.workload.trustDomain: no trust domain named "strange"',
    ]


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("server: local", "server: local", True),
        ("directions: [inbound]", "directions: [outbound]", False),
        ("directions: [inbound]", "fallback: local", True),
        ("match: [{headers: {a: b}}]", "server: local", False),
        ("match: [{headers: {a: b}}]", "match: [{headers: {a: c}}]", False),
        ("match: []", "server: local", True),
        ("directions: [x, inbound]", "directions: [{}, inbound]", True),
        ("directions: inbound", "server: local", False),
    ],
)
def test_a_pattern_has_one_route_for_all_calls_of_a_direction(first: str, second: str, clash: bool) -> None:
    found = problems(MESH, SIDECAR, SERVER, ROUTE % ("a", first), ROUTE % ("b", second))
    message = 'spec.models[0]: "m*" already has a route, ModelRoute/a at f:13: one of the two needs a "match"'
    assert found == ([f"f:19: ModelRoute/b: {message}"] if clash else [])


def test_whoever_a_match_names_can_be_known() -> None:
    match = "match: [{headers: {a: b}}, {caller: {token: {issuer: %s}}}]"
    assert problems(MESH, SIDECAR, SERVER, ROUTE % ("r", match % "corp")) == []
    assert problems(MESH, SIDECAR, SERVER, ROUTE % ("r", match % "crop")) == [
        'f:15: ModelRoute/r: spec.match[1].caller.token.issuer: no issuer named "crop" (did you mean "corp"?)'
    ]
    (found,) = problems(MESH, SIDECAR, SERVER, ROUTE % ("r", "directions: [outbound], " + match % "corp"))
    assert found.startswith("f:15: ModelRoute/r: spec.match[1].caller: the caller is known for inbound calls only")
    no_issuer = MESH.replace(", issuers: [{name: corp}]", "")
    (found,) = problems(no_issuer, SIDECAR, SERVER, ROUTE % ("r", "match: [{caller: {iamRole: x}}]"))
    assert "spec.match[0].caller.iamRole: no caller can prove an IAM role" in found


SERVER_2 = "kind: ModelServer\nmetadata: {name: other}\nspec: {}\n"


@pytest.mark.parametrize(
    ("spec", "is_same"),
    [
        ("server: local, mirror: {server: local}", True),
        ("server: local, mirror: {server: other}", False),
        ("server: local, mirror: {version: 2}", False),
        ("server: other, mirror: {server: local}", False),
        ("mirror: {server: local}", True),
        ("mirror: {server: local}, directions: [outbound]", False),
        ("mirror: {server: local, version: 1}", False),
        ("split: [{version: 1}, {version: 2}], mirror: {version: 2}", False),
        ("split: [{version: 1, weight: 0}, {version: 2}], mirror: {version: 2}", True),
        ("split: [{version: 1, weight: 0}, {version: 2}], mirror: {server: local, version: 2}", True),
        ("split: [{version: 1, weight: 0}, {version: 2}], mirror: {server: other, version: 2}", False),
        ("split: [{version: 1}, {version: 2, weight: 0}], mirror: {version: 2}", False),
        ("split: [{server: other}], mirror: {server: other}", True),
        ("split: [{server: other}, {label: a}], mirror: {server: other}", False),
        ("split: [{label: a}], mirror: {label: a}", True),
        ("split: [{server: other}], mirror: {server: local}", False),
        ("mirror: {server: []}", False),
    ],
)
def test_a_mirror_is_of_something_else(spec: str, is_same: bool) -> None:
    found = problems(MESH, SIDECAR, SERVER, SERVER_2, ROUTE % ("r", spec))
    expected = "f:19: ModelRoute/r: spec.mirror: mirrors calls to where they already go"
    assert found == ([expected] if is_same else [])


def test_a_host_leads_to_one_server() -> None:
    first = SERVER.replace("{}", "{hosts: [a.example, A.Example., other, b.example]}")
    second = SERVER_2.replace("{}", "{hosts: [other, B.example, {}, local]}")
    assert problems(MESH, SIDECAR, first, second) == [
        'f:11: ModelServer/local: spec.hosts[2]: "other" already selects ModelServer/other, at f:13',
        'f:15: ModelServer/other: spec.hosts[1]: "B.example" already selects ModelServer/local, at f:9',
        'f:15: ModelServer/other: spec.hosts[3]: "local" already selects ModelServer/local, at f:9',
    ]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("{endpoints: [{rest: x}, {sidecar: y}]}", "spec.endpoints[1].sidecar"),
        ("{dns: {name: a, sidecar: 1}}", "spec.dns.sidecar"),
        ("{dns: {name: a, srv: sidecar}}", "spec.dns.srv"),
        ("{dns: {name: a, srv: grpc}}", None),
        ("{service: {name: a, sidecar: mesh}}", "spec.service.sidecar"),
        ("{endpoints: [{rest: x}]}", None),
    ],
)
def test_calling_a_sidecar_takes_mtls(spec: str, field: str | None) -> None:
    server = SERVER.replace("{}", spec)
    sidecar = SIDECAR.replace("identity: {}", "controlPlane: {documents: true}")
    assert problems(MESH, sidecar, server) == []
    disabled = MESH.replace("trustDomain: d", "trustDomain: d, mtls: disabled")
    message = 'a sidecar is called over mTLS, but MeshConfig/m has mtls "disabled"'
    expected = [] if field is None else [f"f:11: ModelServer/local: {field}: {message}"]
    assert problems(disabled, sidecar, server) == expected


def test_endpoints_of_a_service_take_a_control_plane_that_sends_documents() -> None:
    server = SERVER.replace("{}", "{service: {namespace: a, name: b, grpc: c}}")
    expected = (
        "f:11: ModelServer/local: spec.service: the control plane sends the endpoints of a Service to sidecars whose "
        'documents come from there: Sidecar/s has no "controlPlane" with "documents: true"; without one, use "dns" '
        "with the name of a headless Service"
    )
    for without in ("identity: {}", "controlPlane: {}", "controlPlane: {documents: false}"):
        assert problems(MESH, SIDECAR.replace("identity: {}", without), server) == [expected]
    assert problems(MESH, SIDECAR.replace("identity: {}", "controlPlane: {documents: true}"), server) == []


def test_broken_documents_do_no_harm() -> None:
    assert problems("kind: ModelRoleBinding\nmetadata: {name: b}\nspec: [on, {}]\n", MESH, SIDECAR, SERVER) == []
    assert (
        problems("kind: ModelRoute\nmetadata: {name: b}\nspec: {models: {}, server: [x]}\n", MESH, SIDECAR, SERVER)
        == []
    )


TF = SERVER.replace("spec: {}", "spec: {health: {check: model-status}}")


@pytest.mark.parametrize(
    ("asks", "field"),
    [
        ("server: local, split: [{version: rc1}]", "spec.split[0].version"),
        ("split: [{weight: 1}, {version: '2024-06-rc1', server: local}]", "spec.split[1].version"),
        ("server: local, labels: {stable: 3, canary: rc1}", "spec.labels.canary"),
        ("split: [{server: local}], labels: {canary: rc1}", "spec.labels.canary"),
        ("split: [{server: other}], mirror: {server: local, version: rc1}", "spec.mirror.version"),
    ],
)
def test_text_is_no_version_of_tensorflow_serving(asks: str, field: str) -> None:
    other = SERVER.replace("name: local", "name: other")
    for tf in (TF, TF.replace("check: model-status", "interval: 1s")):
        (found,) = problems(MESH, SIDECAR, tf, other, ROUTE % ("r", asks))
        assert f"{field}: " in found
        assert "whole numbers" in found
    assert problems(MESH, SIDECAR, SERVER, other, ROUTE % ("r", asks)) == []
    assert problems(MESH, SIDECAR, TF.replace("model-status", "grpc"), other, ROUTE % ("r", asks)) == []
    assert (
        problems(MESH, SIDECAR, TF, other, ROUTE % ("r", asks.replace("'2024-06-rc1'", "rc1").replace("rc1", "4")))
        == []
    )


def test_a_version_in_quotes_is_the_same_version() -> None:
    (found,) = problems(MESH, SIDECAR, SERVER, ROUTE % ("r", "split: [{version: 3}], mirror: {version: '3'}"))
    assert "mirrors calls to where they already go" in found
