"""docs/quickstart-kubernetes.md, as far as it can be said without a cluster; `make e2e` follows it in one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from meshproxy.injection.probes import PORT_NAME
from meshproxy.injection.settings import ADMIN, INBOUND
from tests import pages

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "quickstart-kubernetes.md").read_text()
FILES = {block.file or "": block.text for block in pages.blocks(PAGE, "yaml")}


def objects(file: str) -> dict[str, Any]:
    """By kind and name."""
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in yaml.safe_load_all(FILES[file])}


def test_each_block_of_yaml_says_where_it_is_saved_and_is_used() -> None:
    assert set(FILES) == {"models.yaml", "access.yaml", "callers.yaml"}
    typed = "".join(block.text for block in pages.blocks(PAGE, "sh"))
    for file in FILES:
        assert re.search(rf"(?s)Save (it|them|these) as\s`{re.escape(file)}`", PAGE)
        assert f"-f {file}" in typed


def test_the_documents_are_those_of_a_mesh(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("meshproxy")
    options = ("--image", "i", "--trust-domain", "prod.example", "--only", "documents")
    first = subprocess.run([program, "install", *options], capture_output=True, text=True, check=True).stdout
    (tmp_path / "first.yaml").write_text(first)
    (tmp_path / "access.yaml").write_text(FILES["access.yaml"])
    checked = subprocess.run(
        [program, "config", "check", "--partial", tmp_path], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_only_the_sidecar_can_be_reached() -> None:
    models, callers, access = (objects(file) for file in ("models.yaml", "callers.yaml", "access.yaml"))
    admitted = models["NetworkPolicy/models"]["spec"]["ingress"][0]["ports"]
    assert {each["port"] for each in admitted} == {INBOUND, ADMIN}
    (port,) = models["Service/models"]["spec"]["ports"]
    assert port["targetPort"] == PORT_NAME
    assert access["ModelServer/models"]["spec"]["service"]["sidecar"] == port["name"]
    pod = models["Deployment/models"]["spec"]["template"]
    assert pod["metadata"]["labels"] == models["NetworkPolicy/models"]["spec"]["podSelector"]["matchLabels"]
    (subject,) = access["ModelRoleBinding/shop"]["spec"]["subjects"]
    assert subject["workload"]["serviceAccount"] == callers["Pod/checkout"]["spec"]["serviceAccountName"]
