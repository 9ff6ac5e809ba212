"""Files that documents name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import inspect

from meshproxy.config import file_warnings
from meshproxy.config.examine import examine
from meshproxy.config.routes import ModelRoute
from tests.config.conftest import Check, document, said

MESH = "{trustDomain: d, issuers: [{name: c, issuer: x, audiences: [a], keys: {file: k.json}}]}"
SIDECAR = (
    "{identity: {files: {certificate: c.pem, key: /no/k.pem, trustBundle: .}}, inbound: {server: local},"
    " accessLog: ./a.log}"
)
FILES = (document("MeshConfig", "m", MESH), document("Sidecar", "s", SIDECAR))


def test_files_that_are_not_there(check: Check, tmp_path: Path) -> None:
    (tmp_path / "c.pem").touch()
    assert said(check(*FILES), "MP0603") == [
        f'4: MeshConfig/m: spec.issuers[0].keys.file: "{tmp_path}/k.json" does not exist',
        '9: Sidecar/s: spec.identity.files.key: "/no/k.pem" does not exist',
        f'9: Sidecar/s: spec.identity.files.trustBundle: "{tmp_path}" is a folder',
    ]


def test_those_of_another_host_are_not_looked_for() -> None:
    found = examine([], "---\n".join(FILES).encode())
    assert said(found, "MP0603") == []


def test_a_kind_is_looked_into_once(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes milliseconds, and there may be thousands of documents."""
    file_warnings._fields.cache_clear()
    looked: list[Any] = []
    look = inspect.type_info

    def noting(kind: Any) -> inspect.Type:
        looked.append(kind)
        return look(kind)

    monkeypatch.setattr(inspect, "type_info", noting)
    routes = [document("ModelRoute", f"r{number}", f"{{models: [m{number}], timeout: 1s}}") for number in range(9)]
    check(*routes, is_partial=True)
    assert looked.count(ModelRoute) <= 2  # for the documents, and for files


def test_sockets_and_folders_that_the_sidecar_makes_are_none(check: Check) -> None:
    agent = document("Sidecar", "s", "{identity: {workloadApi: {socket: /no/agent.sock}}, inbound: {server: local}}")
    assert said(check(agent, is_partial=True), "MP0603") == []
