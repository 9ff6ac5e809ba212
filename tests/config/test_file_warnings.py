"""Files that documents name."""

from __future__ import annotations

from pathlib import Path

from meshproxy.config.examine import examine
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


def test_sockets_and_folders_that_the_sidecar_makes_are_none(check: Check) -> None:
    agent = document("Sidecar", "s", "{identity: {workloadApi: {socket: /no/agent.sock}}, inbound: {server: local}}")
    assert said(check(agent, is_partial=True), "MP0603") == []
