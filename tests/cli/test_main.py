"""The command itself: its words are the modules beside it, and nothing is loaded that is not asked for."""

from __future__ import annotations

import errno
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

import meshproxy
from meshproxy.cli.main import main


def modules_after(*arguments: str) -> set[str]:
    program = (
        "import sys; from meshproxy.cli.main import main\n"
        f"main({list(arguments)!r}, standalone_mode=False)\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(done.stderr.split())


def test_help_names_every_command() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name in ("authz", "config", "version"):
        assert f"\n  {name} " in result.output


def test_every_command_has_help() -> None:
    context = main.make_context("meshproxy", [], resilient_parsing=True)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str(), name


def test_version() -> None:
    result = CliRunner().invoke(main, ["version"])
    assert result.output.startswith(f"meshproxy {meshproxy.__version__} (Python 3.")
    assert CliRunner().invoke(main, ["--version"]).output == result.output
    versions = json.loads(CliRunner().invoke(main, ["version", "-o", "json"]).output)
    assert versions["meshproxy"] == meshproxy.__version__
    assert set(versions) == {"meshproxy", "python", "openssl"}


@pytest.mark.parametrize(("word", "hint"), [("confg", "config"), ("athz", "authz")])
def test_a_near_miss_is_recognised(word: str, hint: str) -> None:
    result = CliRunner().invoke(main, [word])
    assert result.exit_code == 2
    assert f'(did you mean "{hint}"?)' in result.output


@pytest.mark.parametrize("word", ["main", "nonsense", "_x", "os", "../config", "__init__"])
def test_what_is_no_command(word: str) -> None:
    result = CliRunner().invoke(main, [word])
    assert result.exit_code == 2
    assert f"No such command '{word}'" in result.output


def test_a_command_loads_what_it_needs() -> None:
    heavy = {"yaml", "msgspec", "asyncio", "aiohttp", "grpc", "rich", "cryptography", "uvloop"}
    assert not heavy & modules_after("version")
    loaded = modules_after("config", "check", "deploy/examples/first.yaml")
    assert {"yaml", "msgspec"} <= loaded
    assert not {"asyncio", "aiohttp", "grpc", "rich", "cryptography", "uvloop"} & loaded


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "Interrupted."),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "the output cannot be written: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "audit/x"), 1, "Error: audit/x: Permission denied\n"),
        (OSError(errno.EROFS, "Read-only file system", "x.pem"), 1, "Error: x.pem: Read-only file system\n"),
    ],
)
def test_what_ends_every_command(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, words: str
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(main.commands["version"], "callback", fail)
    result = CliRunner().invoke(main, ["version"])
    assert result.exit_code == status
    assert words in result.output


def test_another_failure_of_files_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "a file of ours")

    monkeypatch.setattr(main.commands["version"], "callback", fail)
    assert isinstance(CliRunner().invoke(main, ["version"]).exception, OSError)
