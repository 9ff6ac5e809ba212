"""`examine`: parts of sets, manifests, ConfigMaps and standard input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.codes import Code, Severity
from meshproxy.config.examine import examine
from meshproxy.config.load import load
from tests.config.conftest import Check, codes, document, mesh, said, server, sidecar

DEPLOY = Path(__file__).parents[2] / "deploy"
ROLE = document("ModelRole", "r", "{rules: [{models: [m], verbs: [predict]}]}")
BINDING = document("ModelRoleBinding", "b", "{role: r, subjects: [{token: {issuer: corp}}]}")
SET = f"{mesh()}---\n{sidecar()}---\n{server()}"
DEPLOYMENT = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n"


def config_map(*texts: str) -> str:
    lines = [line for number, text in enumerate(texts) for line in [f"  f{number}.yaml: |", *_indented(text)]]
    return "\n".join(["apiVersion: v1", "kind: ConfigMap", "metadata: {name: c}", "data:", *lines, ""])


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.splitlines()]


class TestParts:
    def test_a_policy_repository(self, check: Check) -> None:
        found = check(ROLE, BINDING)
        assert [problem.code for problem in found.problems] == [Code.PARTIAL]
        assert "without MeshConfig, ModelServer, ModelRoute, ModelRollout and Sidecar" in found.problems[0].message
        assert found.is_partial
        assert found.names["ModelRole"] == ("r",)
        assert found.fingerprint is None

    def test_what_is_there_must_fit(self, check: Check) -> None:
        found = check(
            ROLE, BINDING.replace("role: r", "role: s"), document("ModelRoute", "t", "{models: [m], server: x}")
        )
        assert codes(found) == ["UNBOUND_ROLE", "UNKNOWN_REFERENCE"]
        assert said(found, "MP0303") == ['9: ModelRoleBinding/b: spec.role: no ModelRole named "s"']

    @pytest.mark.parametrize("missing", ["MeshConfig", "Sidecar"])
    def test_one_that_lacks_one_is_a_mistake_unless_it_is_said_not_to_be(self, check: Check, missing: str) -> None:
        documents = [each for each in (mesh(), sidecar(), server(), ROLE) if missing not in each]
        (problem,) = said(check(*documents), "MP0302")
        assert f"no {missing} among the documents: exactly one is needed; --partial checks" in problem
        found = check(*documents, is_partial=True)
        assert "MISSING_DOCUMENT" not in codes(found)
        assert found.is_partial

    def test_nothing_is_no_part(self, check: Check) -> None:
        for text in ("", DEPLOYMENT):
            assert [line for line in said(check(text)) if "no document of meshproxy is here" in line]


@pytest.mark.parametrize("text", ["server: {port: 8500}\n", '{"keys": []}', "hello\n", "[1, 2]\n"])
def test_a_file_of_something_else_is_told_once(check: Check, text: str) -> None:
    assert codes(check(text)) == ["UNKNOWN_DOCUMENT"]


class TestManifests:
    def test_the_project_s_own(self) -> None:
        found = examine([str(DEPLOY / "kubernetes" / "tensorflow-serving.yaml")])
        assert [problem.code for problem in found.problems] == [Code.SKIPPED]
        assert not found.is_partial
        assert found.names["Sidecar"] == ("tensorflow-serving",)

    @pytest.mark.parametrize(
        "path", ["examples/first.yaml", "examples/traffic.yaml", "examples/rollout.yaml", "demo/policy.yaml"]
    )
    def test_the_examples(self, path: str) -> None:
        assert set(codes(examine([str(DEPLOY / path)]))) <= {"MISSING_FILE"}

    def test_lines_in_a_config_map_are_those_of_the_file(self, check: Check) -> None:
        found = check(DEPLOYMENT, config_map(ROLE, BINDING.replace("subjects", "sujects")))
        assert said(found, "MP0202") == [
            '18: ModelRoleBinding/b: spec.sujects: no such field (did you mean "subjects"?)'
        ]

    def test_keys_of_a_config_map_end_as_files_do_in_any_case(self, check: Check) -> None:
        assert check(config_map(ROLE).replace("f0.yaml", "f0.YML")).names["ModelRole"] == ("r",)

    def test_in_another_form_they_are_those_of_the_text(self, check: Check, tmp_path: Path) -> None:
        text = ROLE.replace("models", "model").replace("\n", "\\n")
        found = check(f'apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {{f.yaml: "{text}"}}\n')
        assert {(problem.file, problem.line) for problem in found.problems if problem.severity is Severity.ERROR} == {
            (f"{tmp_path}/f.yaml#c/f.yaml", 4)
        }

    def test_a_list_of_config_maps(self, check: Check) -> None:
        inner = "\n".join(_indented(config_map(ROLE))).replace("    apiVersion", "  - apiVersion", 1)
        found = check(f"apiVersion: v1\nkind: List\nitems:\n{inner}\n")
        assert (codes(found), found.names["ModelRole"]) == ([], ("r",))

    def test_a_config_map_of_something_else(self, check: Check) -> None:
        other = config_map("key: value").replace("name: c", "name: other")
        found = check(other, ROLE)
        assert [(problem.code, problem.message) for problem in found.problems if problem.code == Code.SKIPPED] == [
            (Code.SKIPPED, "skipped ConfigMap: not of meshproxy. A sidecar takes no file with other documents")
        ]

    def test_what_a_sidecar_would_not_take_inside_of_a_config_map(self, check: Check) -> None:
        assert codes(check(config_map(f"{ROLE}---\n{DEPLOYMENT}"))) == ["UNKNOWN_DOCUMENT"]

    def test_nor_in_another_file_of_one(self, check: Check) -> None:
        other = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [a.yaml]"
        assert codes(check(config_map(ROLE, other))) == codes(check(config_map(other, ROLE))) == ["UNKNOWN_DOCUMENT"]
        assert codes(check(config_map(ROLE, other).replace("f1.yaml", "values.txt"))) == []

    def test_documents_of_another_mesh(self, check: Check) -> None:
        istio = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {}\n"
        sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: a}\nspec: {egress: []}\n"
        found = said(check(ROLE, istio, sidecar), "MP0604")
        assert found[0].startswith("6: AuthorizationPolicy/a: : not a document of meshproxy, and skipped: ")
        assert found[1].startswith("11: Sidecar/a: : ")

    def test_typing_errors_are_no_other_applications(self, check: Check) -> None:
        wrong = ROLE.replace("meshproxy.dev/v1alpha1", "v1")
        assert codes(check(wrong, ROLE.replace("ModelRole", "ModelRoll"), BINDING)) == ["UNKNOWN_DOCUMENT"] * 2


class TestStandardInput:
    def test_beside_files(self, tmp_path: Path) -> None:
        file = tmp_path / "a.yaml"
        file.write_text(SET)
        found = examine([str(file)], ROLE.encode())
        assert codes(found) == ["NOTHING_ALLOWED", "UNBOUND_ROLE"]
        assert {problem.file for problem in found.problems} == {"<stdin>"}

    def test_what_it_may_be(self) -> None:
        assert codes(examine([], b"\xff")) == ["UNREADABLE"]
        assert codes(examine([], b"a: " + b"x" * (8 << 20))) == ["UNREADABLE"]
        assert codes(examine([], config_map(ROLE).encode())) == []


def test_no_policy_is_missed_where_there_are_only_outbound_calls() -> None:
    found = examine([str(DEPLOY / "examples" / "traffic.yaml")])
    assert {problem.code for problem in found.problems} <= {Code.MISSING_FILE}


def test_a_set_without_problems_has_the_fingerprint_of_the_sidecar(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(SET)
    found = examine([str(file)])
    assert [problem.code for problem in found.problems] == [Code.NO_ROLE]
    assert found.fingerprint == load([file]).fingerprint
    file.write_text(file.read_text() + "---\n" + DEPLOYMENT)
    assert examine([str(file)]).fingerprint is None


WORDS = st.sampled_from(
    [
        "models",
        "verbs",
        "spec",
        "rules",
        "subjects",
        "token",
        "workload",
        "split",
        "weight",
        "health",
        "data",
        "timeout",
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["predict", "*", "1s"])
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4))


@given(
    st.lists(
        st.tuples(st.sampled_from(["MeshConfig", "ModelRole", "ModelRoleBinding", "ModelRoute", "ConfigMap"]), TREES)
    )
)
def test_whatever_is_written_nothing_is_raised(documents: list[tuple[str, object]]) -> None:
    text = "\n---\n".join(
        json.dumps(
            {
                "apiVersion": "meshproxy.dev/v1alpha1",
                "kind": kind,
                "metadata": {"name": "x"},
                "spec": spec,
                "data": spec,
            }
        )
        for kind, spec in documents
    )
    for problem in examine([], text.encode()).problems:
        assert problem.code
        assert problem.message


def _places(node: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to everything in a tree of mappings and lists."""
    yield place
    names = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for name in names:
        yield from _places(node[name], (*place, name))


WHOLE = [
    {"kind": "MeshConfig", "metadata": {"name": "m", "namespace": "mesh"}, "spec": {"trustDomain": "m.example"}},
    {
        "kind": "Sidecar",
        "metadata": {"name": "s", "labels": {"a": "b"}},
        "spec": {"inbound": {"server": "local"}, "identity": {"certificate": "c", "key": "k", "trustBundle": "b"}},
    },
    {"kind": "ModelServer", "metadata": {"name": "local"}, "spec": {"endpoints": [{"rest": "127.0.0.1:8501"}]}},
    {
        "kind": "ModelRoute",
        "metadata": {"name": "r", "namespace": "mesh"},
        "spec": {
            "models": ["m"],
            "split": [{"version": 1, "weight": 9}, {"label": "next", "weight": 1}],
            "mirror": {"version": 2},
            "match": [{"caller": {"token": {"issuer": "i", "claims": {"a": "b"}}}}],
        },
    },
    {"kind": "ModelRole", "metadata": {"name": "r"}, "spec": {"rules": [{"models": ["*"], "verbs": ["predict"]}]}},
    {
        "kind": "ModelRoleBinding",
        "metadata": {"name": "b"},
        "spec": {"role": "r", "subjects": [{"workload": {"spiffeId": "spiffe://m.example/a"}}]},
    },
]
PLACES = [place for place in _places(WHOLE) if len(place) > 1]


@pytest.mark.parametrize("other", [None, 7, "x", ["x"], {"x": "x"}], ids=str)
def test_whatever_is_in_the_place_of_something_nothing_is_raised(other: object) -> None:
    for *path, last in PLACES:
        documents: Any = [{"apiVersion": "meshproxy.dev/v1alpha1", **document} for document in deepcopy(WHOLE)]
        place = documents
        for name in path:
            place = place[name]
        place[last] = other
        for problem in examine([], "\n---\n".join(map(json.dumps, documents)).encode()).problems:
            assert problem.message
