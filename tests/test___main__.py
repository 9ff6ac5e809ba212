from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshproxy import __main__ as module
from meshproxy.cli import main as command_line
from meshproxy.sidecar import __main__ as sidecar

Run = list[tuple[str, list[str], str | None]]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Run:
    """What it has become, with which arguments and which level of the log."""
    seen: Run = []
    monkeypatch.setattr(module, "settle", lambda **how: None)  # tests/test_first.py
    monkeypatch.setenv("MESHPROXY_LOG_LEVEL", "warning")

    def become_sidecar(paths: list[str]) -> int:
        seen.append(("sidecar", paths, os.environ.get("MESHPROXY_LOG_LEVEL")))
        return 3

    def become_command_line() -> None:
        seen.append(("command line", sys.argv[1:], os.environ.get("MESHPROXY_LOG_LEVEL")))
        sys.exit(2)

    monkeypatch.setattr(sidecar, "main", become_sidecar)
    monkeypatch.setattr(command_line, "main", become_command_line)
    return seen


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["meshproxy", *arguments])
    with pytest.raises(SystemExit) as ended:
        module.main()
    return ended.value.code


@pytest.mark.parametrize(("more", "level"), [((), "warning"), (("--log-level", "debug"), "debug")])
def test_what_a_pod_runs_is_the_sidecar_at_once(
    ran: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: tuple[str, ...], level: str
) -> None:
    assert run(monkeypatch, "sidecar", "--config", str(tmp_path), *more) == 3
    assert ran == [("sidecar", [str(tmp_path)], level)]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("sidecar",),
        ("sidecar", "--config"),
        ("sidecar", "--config", ""),
        ("sidecar", "--config", "/nowhere/at/all"),
        ("sidecar", "--config", "/", "--config", "/"),
        ("sidecar", "--config", "/", "--log-level", "loud"),
        ("sidecar", "--config", "/", "--log-level", "INFO"),
        ("sidecar", "--config", "/", "--help"),
        ("sidecar", "--config=/"),
        ("config", "--config", "/"),
    ],
)
def test_everything_else_is_the_command_lines(
    ran: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert ran == [("command line", list(arguments), "warning")]


def test_a_level_in_the_environment_that_there_is_not_is_the_command_lines_to_refuse(
    ran: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHPROXY_LOG_LEVEL", "loud")
    run(monkeypatch, "sidecar", "--config", "/")
    run(monkeypatch, "sidecar", "--config", "/", "--log-level", "info")
    assert [(what, level) for what, _, level in ran] == [("command line", "loud"), ("sidecar", "info")]


def test_both_run_as_a_module(tmp_path: Path) -> None:
    """With its own name in messages, and the exit status of each."""
    (tmp_path / "bad.yaml").write_text("kind: Nothing\n")
    for arguments, status, said in (
        (("sidecar", "--config", str(tmp_path)), 3, "configuration rejected; not starting"),
        (("sidecar", "--config", str(tmp_path / "none")), 2, "does not exist"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "meshproxy", *arguments], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (status, "")
        assert said in done.stderr
