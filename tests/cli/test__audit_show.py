from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshproxy.cli.audit import command
from meshproxy.telemetry.audit_events import certificate_body
from tests.audit.trails import line_of, trail


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [*map(str, arguments)])


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    hostile = line_of(certificate_body(1.0, "\x1b[2J", "10.0.0.1:1", "no proof", reason="unattested"))
    path.write_bytes(b"".join((*trail(14), b"none\n", hostile)))
    return path


def test_show(written: Path) -> None:
    result = run("show", written)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "2023-11-14 22:13:20 UTC: the trail begins a chain."
    assert lines[1].endswith("10.0.0.1:40000 was allowed to predict model-0 (by finance-team).")
    assert "\\x1b[2J was refused a certificate" in lines[-1]
    assert "1 lines of" in result.stderr
    assert len(run("show", written, "-n", "2").stdout.splitlines()) == 2


def test_search(written: Path) -> None:
    assert len(run("search", written, "--model", "model-3").stdout.splitlines()) == 2
    assert len(run("search", written, "--kind", "writer").stdout.splitlines()) == 2
    assert len(run("search", written, "--kind", "certificate", "--until", "1971-01-01").stdout.splitlines()) == 1
    assert run("search", written, "--decision", "deny", "--since", "2000-01-01").stdout == ""
    found = run("search", written, "--caller", "corp:*", "--model", "model-3", "-o", "json")
    assert found.stdout_bytes == trail(14)[4] + trail(14)[11]
    assert "expected a time such as" in run("search", written, "--since", "yesterday").output


def test_lines_that_somebody_has_changed_move_no_cursor(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    good = trail(3)
    changed = good[1].replace(b"alice", "al\x7f\u009b2J\u202e\U0001f600ice".encode()).replace(b",", b",\t", 1)
    path.write_bytes(b"".join((good[0], changed, good[2].rstrip(b"\n"))))
    shown = run("show", path, "-o", "json").stdout_bytes.splitlines(keepends=True)
    assert (shown[0], shown[2]) == (good[0], good[2])
    assert b"\\u007f\\u009b2J\\u202e\\ud83d\\ude00ice" in shown[1]
    assert all(0x20 <= byte < 0x7F for byte in shown[1][:-1])
