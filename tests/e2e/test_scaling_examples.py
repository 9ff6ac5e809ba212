"""deploy/kubernetes/scaling in a real API server, but for the kinds of KEDA, which it does not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.apiserver import Cluster
from tests.e2e.documents import read_all

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes" / "scaling"
OBJECTS = [
    pytest.param(each, id=f"{path.stem} {each['kind']}")
    for path in sorted(FOLDER.glob("*.yaml"))
    for each in read_all(path.read_text())
    if "keda.sh" not in each["apiVersion"]
]


@pytest.mark.parametrize("example", OBJECTS)
def test_it_is_taken_as_it_stands(cluster: Cluster, example: dict[str, Any]) -> None:
    metadata = {key: value for key, value in example["metadata"].items() if key != "namespace"}  # which is not there
    text = json.dumps({**example, "metadata": metadata})
    cluster.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)
