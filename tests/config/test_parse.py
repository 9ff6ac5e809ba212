"""One file. What becomes of several is in the tests of `load` and of `examine`."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.config.codes import Code
from meshproxy.config.files import Source
from meshproxy.config.parse import PROBLEMS, Parsed, parse
from tests.config.conftest import document

ROLE = document("ModelRole", "r", "{rules: [{models: [m], verbs: [predict]}]}")
DEPLOYMENT = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n"


def parsed(text: str, *, among_others: bool = False, is_local: bool = True) -> Parsed:
    found = Parsed()
    source = Source(Path("f.yaml"), text.encode(), is_named=True, is_local=is_local)
    parse(source, found, among_others=among_others)
    return found


@pytest.mark.parametrize("is_local", [True, False])
def test_documents_know_where_they_come_from(is_local: bool) -> None:
    (placed,) = parsed(ROLE, is_local=is_local).placed
    assert (placed.label, placed.place, placed.is_local) == ("ModelRole/r", "f.yaml:1", is_local)


def test_documents_of_other_applications() -> None:
    strict = parsed(f"{ROLE}---\n{DEPLOYMENT}")
    assert [problem.code for problem in strict.problems] == [Code.UNKNOWN_DOCUMENT]
    among = parsed(f"{ROLE}---\n{DEPLOYMENT}", among_others=True)
    assert among.problems == []
    assert [(other.label, other.document) for other in among.others] == [("Deployment/d", "apps/v1")]
    assert [placed.label for placed in among.placed] == ["ModelRole/r"]


def test_a_config_map_where_a_sidecar_reads_says_how_to_use_it() -> None:
    (problem,) = parsed("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n").problems
    assert problem.message.endswith("mount the ConfigMap as a volume, and name its folder: each key is a file there")


def test_the_number_of_problems_is_bounded() -> None:
    found = parsed("\n".join(["a: 1"] * (PROBLEMS + 10)))
    assert len(found.problems) == PROBLEMS + 1
    assert {problem.code for problem in found.problems} == {Code.AMBIGUOUS_YAML, Code.TOO_MANY_PROBLEMS}
    assert not found.is_whole
