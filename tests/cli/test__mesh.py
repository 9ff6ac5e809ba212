"""The calls of a mesh, added up from what control planes tell."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from meshproxy.cli.main import main
from meshproxy.view.mesh import Mesh
from meshproxy.view.page import mesh_page
from tests.cli.conftest import ServePages
from tests.view.meshes import EVERY, calls, report

NOW = 1e9
API = "spiffe://mesh.test/ns/shop/sa/api"
FRAUD = "spiffe://mesh.test/ns/serving/sa/fraud"


def page(*said: tuple[str, list[Any]], later: float = 0.0, seconds: float = 60.0) -> bytes:
    """`/mesh` of a control plane to which these have reported."""
    mesh = Mesh()
    for spiffe_id, rows in said:
        mesh.take(spiffe_id, report(*rows), EVERY, NOW)
    return msgspec.json.encode(mesh_page(mesh, seconds, NOW + later))


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def groups(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)["groups"]
    return found


def test_a_caller_and_its_server_report_to_two_control_planes(serve_pages: ServePages) -> None:
    one = serve_pages({"/mesh": page((FRAUD, [calls(API, count=10)]))})
    other = serve_pages({"/mesh": page((API, [calls(direction="outbound", count=10, retries=3)]))})
    (group,) = groups(run("stat", "--control", one, "--control", other, "--by", "model", "-o", "json"))
    assert (group["model"], group["calls"], group["retries"]) == ("fraud", 10, 3)
    assert group["latencySeconds"]["mean"] == pytest.approx(0.005, rel=0.1)


def test_filters_and_groups(serve_pages: ServePages) -> None:
    address = serve_pages({"/mesh": page((FRAUD, [calls(API, count=10), calls("spiffe://mesh.test/x", count=3)]))})
    for glob, expected in ((API, 10), ("shop/*", 10), ("*", 13), ("anonymous", 0)):
        found = groups(run("stat", "--control", address, "--caller", glob, "--by", "model", "-o", "json"))
        assert sum(group["calls"] for group in found) == expected
    by = groups(run("stat", "--control", address, "--by", "caller", "--by", "server", "-o", "json"))
    assert [(group["caller"], group["server"]) for group in by] == [(API, FRAUD), ("spiffe://mesh.test/x", FRAUD)]


@pytest.mark.parametrize(
    ("options", "problem"),
    [(("--by", "code"), "--by code"), (("--slower", "1s"), "--slower: sidecars do not report it")],
)
def test_what_sidecars_do_not_report(options: tuple[str, str], problem: str) -> None:
    result = run("stat", "--control", "127.0.0.1:1", *options)
    assert result.exit_code == 2
    assert problem in result.stderr


def test_what_may_be_missing_is_said(serve_pages: ServePages) -> None:
    address = serve_pages({"/mesh": page((FRAUD, [calls()]), later=20.0)})
    result = run("stat", "--control", address, "--control", "127.0.0.1:1", "-o", "table")
    assert result.exit_code == 0
    assert "reports of 1 sidecar processes are late" in result.stderr
    assert "no control plane answers at 127.0.0.1:1" in result.stderr


@pytest.mark.parametrize("body", [b"", b"{}", b'{"kind": "Pod"}', None])
def test_other_ports(serve_pages: ServePages, body: bytes | None) -> None:
    result = run("stat", "--control", serve_pages({} if body is None else {"/mesh": body}))
    assert result.exit_code == 1
    assert "Error: " in result.stderr
