"""The files of a ConfigMap, as a volume has them."""

from __future__ import annotations

from base64 import b64encode, encodebytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.config_map import files_of
from meshproxy.config.nodes import Node, read_documents
from tests.config.conftest import Check, document, said

ROLE = document("ModelRole", "r", "{rules: []}")


def node(text: str) -> Node:
    (found,) = read_documents(text, lambda *_: None)
    return found


def test_data_then_binary_data() -> None:
    binary = b64encode("\ufeffb".encode()).decode()
    files = files_of(node(f"binaryData: {{b.yaml: {binary}}}\ndata: {{a.yaml: a}}\n"))
    assert [(file.name, file.field, file.text, file.problem) for file in files] == [
        ("a.yaml", "data", "a", ""),
        ("b.yaml", "binaryData", "b", ""),
    ]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b64encode("a: b".encode("utf-16")).decode(), "not UTF-8: save the file in that encoding"),
        ("a: b", "not base64"),
        ("YQ", "not base64"),
        ("\xe9", "not base64"),
    ],
)
def test_what_has_no_text(value: str, problem: str) -> None:
    (file,) = files_of(node(f"binaryData:\n  f.yaml: '{value}'\n"))
    assert (file.text, file.problem) == ("", problem)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=200))
def test_lines_of_base64(text: str) -> None:
    value = encodebytes(text.encode()).decode().replace("\n", "\n    ")
    (file,) = files_of(node(f"binaryData:\n  f.yaml: |\n    {value}\n"))
    assert (file.text, file.problem) == (text.removeprefix("\ufeff"), "")


@pytest.mark.parametrize("text", ["a", "data: [a]", "data: a\nbinaryData: {f.yaml: 1}", "data: {f.yaml: [a]}", "{}"])
def test_nothing_is_taken_of_other_forms(text: str) -> None:
    assert files_of(node(text)) == []


def of(binary: bytes, beside: str = ROLE) -> str:
    lines = "".join(f"    {line}\n" for line in beside.splitlines())
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\nbinaryData:\n"
    return f"{head}  b.yaml: {b64encode(binary).decode()}\ndata:\n  a.yaml: |\n{lines}"


def test_a_file_beside_ours_that_a_sidecar_refuses(check: Check) -> None:
    found = check(of(ROLE.encode("utf-16")))
    assert said(found, "MP0101") == ["5: ConfigMap/c: binaryData.b.yaml: not UTF-8: save the file in that encoding"]
    assert said(check(of(ROLE.encode("utf-16"), beside="a: b")), "MP0101") == []


def test_documents_in_binary_data_are_checked(check: Check) -> None:
    other = document("ModelRole", "s", "{rule: []}")
    assert check(of(other.replace("rule:", "rules:").encode())).names["ModelRole"] == ("r", "s")
    (problem,) = said(check(of(other.encode())), "MP0202")
    assert "ModelRole/s: spec.rule: no such field" in problem
