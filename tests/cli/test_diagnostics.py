"""`meshproxy diagnostics dump`. That there is no secret in a real one: tests/mesh/test_mesh_view.py."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from meshproxy.cli import _control_planes
from meshproxy.cli.diagnostics import PAGES
from tests.cli.conftest import ServePages
from tests.cli.test__mesh import run


def files(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {member.name: file.read() for member in archive if (file := archive.extractfile(member)) is not None}


def test_a_bundle(serve_pages: ServePages, tmp_path: Path) -> None:
    address = serve_pages({page.partition("?")[0]: page.encode() for page in PAGES.values()})
    path = tmp_path / "bundle.tar.gz"
    result = run("diagnostics", "dump", "--control", address, "-f", str(path))
    assert (result.exit_code, result.stdout) == (0, f"{path}\n")
    found = files(path)
    folder = f"meshproxy/{address.replace(':', '-')}"
    assert set(found) == {"meshproxy/about.json", *(f"{folder}/{name}" for name in PAGES)}
    assert found[f"{folder}/metrics.txt"] == b"/metrics"
    assert path.stat().st_mode & 0o777 == 0o600
    again = run("diagnostics", "dump", "--control", address, "-f", str(path))
    assert (again.exit_code, "File exists" in again.stderr) == (1, True)


def test_what_is_missing_is_in_it(serve_pages: ServePages, tmp_path: Path) -> None:
    path = tmp_path / "bundle.tar.gz"
    result = run("diagnostics", "dump", "--control", serve_pages({"/status": b"{}"}), "-f", str(path))
    assert result.exit_code == 1
    missing = json.loads(files(path)["meshproxy/about.json"])["missing"]
    assert len(missing) == len(PAGES) - 2  # /readyz is taken as it is
    assert "‼ missing: " in result.stderr


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("diagnostics", "dump", "--control", "127.0.0.1:1")
    assert (result.exit_code, list(tmp_path.iterdir())) == (1, [])
    assert result.stderr == f"Error: {_control_planes.no_answer('127.0.0.1:1', 'Connection refused')}\n"


def test_one_of_two_answers(serve_pages: ServePages, tmp_path: Path) -> None:
    """What is the same for all pages of the other is said once."""
    path = tmp_path / "bundle.tar.gz"
    address = serve_pages({page.partition("?")[0]: b"" for page in PAGES.values()})
    result = run("diagnostics", "dump", "--control", address, "--control", "127.0.0.1:1", "-f", str(path))
    assert result.exit_code == 1
    missing = json.loads(files(path)["meshproxy/about.json"])["missing"]
    assert missing == ["no control plane answers at 127.0.0.1:1: Connection refused"]
