"""`make` makes the environment of development; what is left in the middle, it makes anew."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

PYTHON = """#!/bin/sh
# Enough of Python for make: `-m venv FOLDER`, and `-m pip install ... -e .[EXTRA]`, which ends early if it is told to.
if [ "$2" = venv ]; then
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "made $3" >> log
else
    for extra in "$@"; do :; done
    [ -z "$PYTHONDONTWRITEBYTECODE" ] || echo "without bytecode" >> log
    [ ! -e interrupt ] || exit 130
    echo "installed $extra" >> log
fi
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def make(checkout: Path, target: str) -> tuple[bool, list[str]]:
    """Whether it went well, and what was done for it."""
    (checkout / "log").write_text("")
    command = ["make", f"PYTHON={checkout}/python", target]
    # Not what the make that runs the tests was given, such as another VENV.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "VENV"))}
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)
    return done.returncode == 0, (checkout / "log").read_text().splitlines()


def test_an_environment_is_made_once_and_gets_what_a_target_needs(checkout: Path) -> None:
    assert make(checkout, ".venv/.demo") == (True, ["made .venv", "installed .[demo]"])
    assert make(checkout, ".venv/.demo") == (True, [])
    assert make(checkout, ".venv/.dev") == (True, ["installed .[dev]"])
    assert make(checkout, ".venv/.demo") == (True, [])


def test_an_installation_that_was_interrupted_begins_anew(checkout: Path) -> None:
    (checkout / "interrupt").touch()
    assert make(checkout, ".venv/.dev") == (False, ["made .venv"])
    (checkout / ".venv" / "half").touch()
    (checkout / "interrupt").unlink()
    assert make(checkout, ".venv/.dev") == (True, ["made .venv", "installed .[dev]"])
    assert not (checkout / ".venv" / "half").exists()
    assert make(checkout, ".venv/.dev") == (True, [])


def test_what_was_whole_before_another_installation_was_interrupted_is_installed_again(checkout: Path) -> None:
    make(checkout, ".venv/.dev")
    (checkout / "interrupt").touch()
    assert make(checkout, ".venv/.bench") == (False, [])
    (checkout / "interrupt").unlink()
    assert make(checkout, ".venv/.dev") == (True, ["made .venv", "installed .[dev]"])


@pytest.mark.parametrize("left", [[], ["bin"], ["lib"]], ids=["empty", "without a program", "without bin"])
def test_an_environment_without_a_python_is_made_anew(checkout: Path, left: list[str]) -> None:
    (checkout / ".venv").mkdir()
    for folder in left:
        (checkout / ".venv" / folder).mkdir()
    assert make(checkout, ".venv/.demo") == (True, ["made .venv", "installed .[demo]"])


def test_what_make_starts_keeps_its_bytecode(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise each of the many processes that the tests start compiles every module."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert make(checkout, ".venv/.demo") == (True, ["made .venv", "installed .[demo]"])
