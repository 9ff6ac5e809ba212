"""Files to documents, or to everything that is wrong with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshproxy.config.fields import API_VERSION
from meshproxy.config.load import load, load_own
from meshproxy.config.parse import PROBLEMS
from meshproxy.config.problems import ConfigError, Problem
from meshproxy.config.schema import Documents, Sidecar
from meshproxy.config.values import Address

FIRST = Path("deploy/examples/first.yaml")


def problems(*paths: Path) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as raised:
        load(paths)
    return raised.value.problems


def test_the_first_example_loads_as_it_stands() -> None:
    documents = load([FIRST])
    assert documents.mesh.spec.trust_domain == "dev.example"
    assert documents.mesh.spec.mtls == "strict"
    (issuer,) = documents.mesh.spec.issuers
    assert issuer.keys is not None
    assert issuer.keys.file == str(FIRST.parent.absolute() / "jwks.json")
    assert issuer.algorithms == ("RS256", "ES256")
    (role,) = documents.roles
    assert role.spec.rules[0].models == ("half_plus_*", "finance-prod")
    (binding,) = documents.bindings
    assert binding.spec.action == "allow"
    assert binding.spec.subjects[0].token is not None
    assert binding.spec.subjects[0].token.claims == {"groups": "finance"}
    (server,) = documents.servers
    assert server.spec.endpoints[0].grpc == "127.0.0.1:8500"
    assert documents.sidecar.spec.inbound is not None
    assert documents.sidecar.spec.inbound.listen == Address("0.0.0.0", 18500)
    assert documents.sidecar.spec.identity is not None
    assert documents.sidecar.spec.identity.files is not None
    assert documents.sidecar.spec.identity.files.key == str(FIRST.parent.absolute() / "server-key.pem")
    assert documents.routes == ()


def test_documents_may_be_spread_over_files_and_formats(tmp_path: Path) -> None:
    parts = FIRST.read_text().split("---\n")
    for number, part in enumerate(parts[:-1]):
        (tmp_path / f"{number}.yaml").write_text(part)
    (tmp_path / "sidecar.json").write_text(
        '{"apiVersion": "meshproxy.dev/v1alpha1", "kind": "Sidecar", "metadata": {"name": "first"},\n'
        ' "spec": {"identity": {"files": {"certificate": "a", "key": "b", "trustBundle": "c"}},\n'
        '  "inbound": {"server": "local"}}}'
    )
    assert load([tmp_path]).roles == load([FIRST]).roles


SERVER_WRITTEN = """\
  creationTimestamp: "2026-11-29T10:00:00Z"
  generation: 3
  resourceVersion: "1234"
  uid: 0f5bd2d6-6f3d-4d0e-8f3a-1f5d6c7b8a90
  managedFields:
  - apiVersion: meshproxy.dev/v1alpha1
    fieldsType: FieldsV1
    fieldsV1:
      f:spec:
        .: {}
        f:rules: {}
        k:{"name":"x"}: {}
    manager: kubectl
    operation: Update
    time: "2026-11-29T10:00:00Z"
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: |
      {"apiVersion":"meshproxy.dev/v1alpha1","kind":"ModelRole","metadata":{"annotations":{},"name":"r"}}
"""
ROLE = (
    "apiVersion: meshproxy.dev/v1alpha1\nkind: ModelRole\nmetadata:\n  name: r\n  namespace: models\n"
    f"{SERVER_WRITTEN}spec:\n  rules:\n  - models: [a]\n    verbs: [predict]\nstatus:\n  conditions: null\n"
)
"""As `kubectl get -o yaml --show-managed-fields` prints it (Kubernetes 1.37)."""


def indented(text: str) -> str:
    return "- " + text.replace("\n", "\n  ").rstrip() + "\n"


def test_a_document_as_kubectl_prints_it(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{FIRST.read_text()}---\n{ROLE}")
    role = load([tmp_path]).roles[-1]
    assert (role.metadata.name, role.metadata.namespace) == ("r", "models")
    assert role.spec.rules[0].models == ("a",)


@pytest.mark.parametrize("kind", ["apiVersion: v1\nkind: List\n", f"apiVersion: {API_VERSION}\nkind: ModelRoleList\n"])
def test_a_list_as_kubectl_prints_it(tmp_path: Path, kind: str) -> None:
    items = indented(ROLE) + indented(ROLE.replace("name: r\n", "name: s\n"))
    (tmp_path / "a.yaml").write_text(f"{FIRST.read_text()}---\n{kind}items:\n{items}metadata:\n  resourceVersion: ''\n")
    assert [role.metadata.name for role in load([tmp_path]).roles[-2:]] == ["r", "s"]


def test_a_whole_set_in_one_list(tmp_path: Path) -> None:
    parts = "".join(indented(part) for part in FIRST.read_text().split("---\n"))
    (tmp_path / "a.yaml").write_text(f"apiVersion: v1\nkind: List\nitems:\n{parts}")
    assert load([tmp_path]).roles == load([FIRST]).roles


def test_problems_of_a_list_have_their_places(tmp_path: Path) -> None:
    role = (
        "{apiVersion: meshproxy.dev/v1alpha1, kind: ModelRole, metadata: {name: r, uid: u, uidd: u}, spec: {rules: []}}"
    )
    (tmp_path / "a.yaml").write_text(FIRST.read_text())
    (tmp_path / "b.yaml").write_text(
        f"apiVersion: v1\nkind: List\nitem: on\nitems:\n- {role}\n- {{}}\n- on\n---\nkind: x\n"
    )
    assert [(each.line, each.document, each.field) for each in problems(tmp_path)] == [
        (3, "document 1", "item"),
        (3, "document 1", "item"),
        (5, "ModelRole/r", "metadata.uidd"),
        (5, "ModelRole/r", "spec.rules"),
        (6, "document 1, item 2", ""),
        (7, "document 1", "items[2]"),
        (9, "document 2", "apiVersion"),
        (9, "document 2", "kind"),
    ]


@pytest.mark.parametrize("items", ["", "items: 5\n", "items: {}\n"])
def test_a_list_without_items(tmp_path: Path, items: str) -> None:
    (tmp_path / "a.yaml").write_text(f"{FIRST.read_text()}---\napiVersion: v1\nkind: List\n{items}")
    (problem,) = problems(tmp_path)
    assert "a list of documents" in problem.message


def test_a_list_of_another_application_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{FIRST.read_text()}---\napiVersion: v1\nkind: PodList\nitems: []\n")
    (problem,) = problems(tmp_path)
    assert problem.field == "apiVersion"


def test_a_field_that_no_server_writes_is_still_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{FIRST.read_text()}---\n{ROLE.replace('generation:', 'generatoin:')}")
    (problem,) = problems(tmp_path)
    assert problem.field == "metadata.generatoin"


def test_a_key_set_in_the_folder_is_no_document(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text(FIRST.read_text())
    (tmp_path / "jwks.json").write_text('{"keys": [{"kty": "RSA", "on": 1}]}')
    assert load([tmp_path]).sidecar.metadata.name == "first"
    assert problems(tmp_path / "first.yaml", tmp_path / "jwks.json")[0].message.startswith("is none of meshproxy")
    (tmp_path / "jwks.json").write_text('{"keys": [], "kind": "ModelRole"}')
    assert problems(tmp_path)


def test_all_problems_are_reported_with_their_places(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(
        """\
apiVersion: meshproxy.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec:
  trustDomain: Dev.Example
  mtls: off
---
apiVersion: meshproxy.dev/v2
kind: ModelRole
metadata: {name: reader}
spec:
  rules:
  - {models: [a], verbs: [predcit]}
  - {models: ["a**"], verbs: [predict]}
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRoleBindng
metadata: {name: b}
---
- no document
---
apiVersion: apps/v1
kind: Deployment
spec: {replicas: 1}
---
metadata: {name: x}
---
apiVersion: meshproxy.dev/v1alpha1
kind: Sidecar
metadata: {name: s}
spec: {inbound: {server: here}, identity: {files: {}}}
"""
    )
    found = [(problem.line, problem.document, problem.field) for problem in problems(file)]
    assert found == [
        (5, "MeshConfig/mesh", "spec.trustDomain"),
        (6, "MeshConfig/mesh", "spec.mtls"),
        (8, "ModelRole/reader", "apiVersion"),
        (13, "ModelRole/reader", "spec.rules[0].verbs[0]"),
        (14, "ModelRole/reader", "spec.rules[1].models[0]"),
        (17, "document 3", "kind"),
        (20, "document 4", ""),
        (22, "document 5", "apiVersion"),
        (26, "document 6", ""),
        (31, "Sidecar/s", "spec.identity.files.certificate"),
        (31, "Sidecar/s", "spec.identity.files.key"),
        (31, "Sidecar/s", "spec.identity.files.trustBundle"),
        (31, "Sidecar/s", "spec.inbound.server"),
    ]


def test_a_file_that_breaks_off_hides_no_problem_before_it(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "apiVersion: meshproxy.dev/v1alpha1\nkind: ModelServer\nmetadata: {name: x}\nspec: {endpoint: []}\n---\n{[\n"
    )
    assert [(problem.line, problem.field) for problem in problems(file)] == [
        (4, "spec.endpoint"),
        (7, ""),
    ]


def test_a_broken_document_still_counts_as_there(tmp_path: Path) -> None:
    """A wrong field in a role does not make its bindings wrong."""
    file = tmp_path / "first.yaml"
    file.write_text(FIRST.read_text().replace("verbs: [predict", "verbs: [predcit"))
    assert [problem.field for problem in problems(file)] == ["spec.rules[0].verbs[0]"]


def test_a_hostile_file_gets_a_short_answer(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "apiVersion: meshproxy.dev/v1alpha1\nkind: ModelServer\nmetadata: {name: x}\nspec: [" + "on, " * 5_000 + "]"
    )
    found = problems(file)
    assert len(found) == PROBLEMS + 1
    assert any("1,000 problems in this file" in problem.message for problem in found)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: \xe4", "a: 1".encode("utf-16"), b"# ok\n\xc3("])
def test_what_is_not_utf_8(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(content)
    (problem,) = problems(file)
    assert problem.message == "not UTF-8"
    assert problem.line == content[:5].count(b"\n") + 1


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + FIRST.read_bytes())
    assert load([file]).roles == load([FIRST]).roles


def test_no_paths_no_documents() -> None:
    with pytest.raises(ConfigError):
        load([])


def test_equal_contents_equal_fingerprints(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_bytes(FIRST.read_bytes())
    assert load([tmp_path]).fingerprint == load([FIRST]).fingerprint


def test_yaml_is_loaded_only_when_something_is_parsed() -> None:
    program = "import sys, meshproxy.config.load, meshproxy.config.files; sys.exit('yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def mutate(text: str, cuts: list[tuple[int, int, str]]) -> str:
    for start, length, insert in cuts:
        at = start % (len(text) + 1)
        text = text[:at] + insert + text[at + length :]
    return text


@given(
    st.text(max_size=80)
    | st.lists(
        st.tuples(
            st.integers(0, 3_000),
            st.integers(0, 30),
            st.sampled_from(["", "\n", "on", "- ", "{", "}", "*", "&a ", "1", "'", "null", "\t"]),
        ),
        max_size=4,
    ).map(lambda cuts: mutate(FIRST.read_text(), cuts))
)
@example("apiVersion: meshproxy.dev/v1alpha1\nkind: {a: b}\n")
def test_any_text_gives_documents_or_problems(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    found: Documents | tuple[Problem, ...]
    try:
        found = load([file])
    except ConfigError as error:
        found = error.problems
    assert isinstance(found, Documents) or all(problem.message for problem in found)
    assert found


@given(st.binary(max_size=60))
def test_any_bytes_give_documents_or_problems(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError):
        load([file])


# The Sidecar alone

OWN = """\
apiVersion: meshproxy.dev/v1alpha1
kind: Sidecar
metadata: {name: x}
spec:
  inbound: {server: s}
  controlPlane: {address: "a:1", spiffeId: spiffe://d/c, trustBundle: b, folder: f, documents: true}
"""


def test_the_sidecar_of_a_set_whose_rest_is_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.yaml"
    path.write_text(OWN)
    found = load_own([path])
    assert isinstance(found, Sidecar)
    assert found.metadata.name == "x"
    path.write_text(OWN + "---\n" + OWN)
    with pytest.raises(ConfigError, match="a second Sidecar"):
        load_own([path])
    path.write_text(OWN.replace("inbound", "outbund"))
    with pytest.raises(ConfigError, match="outbund"):
        load_own([path])
    path.write_text("")
    with pytest.raises(ConfigError, match="no Sidecar among"):
        load_own([path])


def test_only_a_control_plane_has_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.yaml"
    path.write_text(OWN.replace("true", "false"))
    with pytest.raises(ConfigError, match="no MeshConfig among the documents"):
        load_own([path])
    assert load_own([FIRST]) == load([FIRST])
