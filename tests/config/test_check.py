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
        "f:17: ModelServer/local: metadata.name: taken: the first of this name is at f:13",
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
        'f:7: Sidecar/s: spec.inbound.server: no ModelServer is called "remote"',
        'f:20: ModelRoleBinding/b: spec.role: no ModelRole is called "raeder" (did you mean "reader"?)',
        'f:22: ModelRoleBinding/b: spec.subjects[0].token.issuer: no issuer is called "crop" (did you mean "corp"?)',
        'f:27: ModelRoute/r: spec.server: no ModelServer is called "locol" (did you mean "local"?)',
    ]
    assert problems(MESH, SIDECAR, SERVER, ROLE, BINDING % ("reader", "corp")) == []


def test_what_may_stand_in_a_file_that_cannot_be_read_is_not_missed() -> None:
    assert problems(MESH, SIDECAR, BINDING % ("x", "y"), is_whole=False) == []


def test_an_iam_role_takes_an_issuer() -> None:
    binding = "kind: ModelRoleBinding\nmetadata: {name: b}\nspec: {role: reader, subjects: [{iamRole: x}]}\n"
    assert problems(MESH, SIDECAR, SERVER, ROLE, binding) == []
    (found,) = problems(MESH.replace(", issuers: [{name: corp}]", ""), SIDECAR, SERVER, ROLE, binding)
    assert "spec.subjects[0].iamRole: the MeshConfig has no issuer" in found


def test_a_pattern_has_one_route() -> None:
    route = "kind: ModelRoute\nmetadata: {name: %s}\nspec: {server: local, models: [%s]}\n"
    assert problems(MESH, SIDECAR, SERVER, route % ("a", "x, 'y*', x"), route % ("b", "z, 'y*'")) == [
        'f:19: ModelRoute/b: spec.models[1]: "y*" has a route already, ModelRoute/a at f:13'
    ]


@pytest.mark.parametrize(
    ("mode", "needs_one"), [("strict", True), ("permissive", True), ("disabled", False), (None, True)]
)
def test_tls_takes_an_identity(mode: str | None, needs_one: bool) -> None:
    mesh = MESH if mode is None else MESH.replace("trustDomain: d", f"trustDomain: d, mtls: {mode}")
    found = problems(mesh, SIDECAR.replace("identity: {}, ", ""), SERVER)
    assert [problem.split(": ")[2] for problem in found] == (["spec.identity"] if needs_one else [])


def test_broken_documents_do_no_harm() -> None:
    assert problems("kind: ModelRoleBinding\nmetadata: {name: b}\nspec: [on, {}]\n", MESH, SIDECAR, SERVER) == []
    assert (
        problems("kind: ModelRoute\nmetadata: {name: b}\nspec: {models: {}, server: [x]}\n", MESH, SIDECAR, SERVER)
        == []
    )
