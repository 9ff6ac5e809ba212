from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshproxy.cli import sidecar

Become = list[tuple[str, list[str], str | None]]


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Become:
    """What the process would have become, with which log level."""
    seen: Become = []
    # Set by the command; whatever it was before comes back afterwards.
    monkeypatch.setenv("MESHPROXY_LOG_LEVEL", "info")

    def execv(path: str, arguments: list[str]) -> None:
        seen.append((path, arguments, os.environ.get("MESHPROXY_LOG_LEVEL")))

    monkeypatch.setattr(os, "execv", execv)
    return seen


def run(*arguments: str) -> Result:
    return CliRunner().invoke(sidecar.command, list(arguments))


def test_it_becomes_the_sidecar(become: Become, tmp_path: Path) -> None:
    """Not a child of it: signals, and the memory, are the sidecar's own."""
    (tmp_path / "a.yaml").touch()
    assert run("--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path)).exit_code == 0
    ((path, arguments, level),) = become
    assert path == arguments[0] == sys.executable
    assert arguments[-4:] == ["-m", "meshproxy.sidecar", str(tmp_path / "a.yaml"), str(tmp_path)]
    assert level == "info"


@pytest.mark.parametrize(("arguments", "level"), [((), "warning"), (("--log-level", "debug"), "debug")])
def test_the_log_level_comes_from_the_option_or_the_environment(
    become: Become, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], level: str
) -> None:
    monkeypatch.setenv("MESHPROXY_LOG_LEVEL", "warning")
    assert run("--config", str(tmp_path), *arguments).exit_code == 0
    assert become[0][2] == level


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Missing option '--config'"),
        (("--config", "/nowhere/at/all"), "does not exist"),
        (("--config", "/", "--log-level", "loud"), "'loud' is not one of"),
    ],
)
def test_called_wrongly_it_becomes_nothing(become: Become, arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert become == []
