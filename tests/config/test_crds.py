"""The definitions of our kinds for Kubernetes. tests/e2e/test_crds.py has what a real API server makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec import Struct

from meshproxy.config import crds, schema
from meshproxy.config.files import Source
from meshproxy.config.parse import Parsed, parse
from tests.config.unfit import UNFIT

PAGE = Path(__file__).parents[2] / "deploy" / "kubernetes" / "crds.yaml"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == crds.page(), "run meshproxy config crds > deploy/kubernetes/crds.yaml"


def test_a_definition_for_every_kind() -> None:
    found = {each["spec"]["names"]["kind"]: each for each in yaml.safe_load_all(crds.page())}
    assert set(found) == {kind.__name__ for kind in schema.KINDS}
    role = found["ModelRole"]
    assert role["metadata"]["name"] == "modelroles.meshproxy.dev"
    (version,) = role["spec"]["versions"]
    assert version["name"] == "v1alpha1"
    assert version["subresources"] == {"status": {}}


def parts(node: Any) -> list[Any]:
    """Everything below a node, itself included."""
    if isinstance(node, dict):
        return [node, *(each for value in node.values() for each in parts(value))]
    return [each for item in node for each in parts(item)] if isinstance(node, list) else []


@pytest.mark.parametrize("kind", schema.KINDS, ids=lambda kind: kind.__name__)
def test_no_defaults_and_a_bound_for_every_text(kind: type[Struct]) -> None:
    spec = crds.definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    found = parts(spec)
    assert not [each for each in found if "default" in each and "type" in each]
    texts = [each for each in found if each.get("type") == "string"]
    assert [each for each in texts if "maxLength" not in each and "enum" not in each] == []
    assert len(json.dumps(crds.definition(kind))) < 100_000, "kubectl apply keeps a copy of at most 256 KiB"


@pytest.mark.parametrize("what", UNFIT)
def test_what_the_definitions_refuse_is_refused_here(what: str) -> None:
    document, words = UNFIT[what]
    parsed = Parsed()
    parse(Source(Path("unfit.json"), json.dumps(document).encode(), is_named=True), parsed)
    assert words.replace("\\", "") in "\n".join(map(str, parsed.problems)).replace('"', "")
    assert len(parsed.problems) == 1
