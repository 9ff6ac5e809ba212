"""`make` makes the environment of development; what is left in the middle, it makes anew."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

PYTHON = """#!/bin/sh
# Enough of Python for make: `-c` asks whether it is new enough, `-m venv FOLDER`, and `-m pip install ... -e .[EXTRA]`,
# which ends early if it is told to.
if [ "$1" = -c ]; then
    [ ! -e old ]
elif [ "$2" = venv ]; then
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


# An engine whose Compose plugin works, and whose containers start, unless files say otherwise.
ENGINE = """#!/bin/sh
name=${0##*/}
if [ "$2" = version ]; then [ ! -e "$name-has-no-compose" ]; else echo "$name $*" >> log; [ ! -e unhealthy ]; fi
"""


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`make` with these arguments, and nothing of what the make that runs the tests was given, such as another VENV."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "VENV"))}
    return subprocess.run(["make", *arguments], cwd=checkout, env=env, capture_output=True, text=True, check=False)


def make(checkout: Path, target: str) -> tuple[bool, list[str]]:
    """Whether it went well, and what was done for it."""
    (checkout / "log").write_text("")
    done = run(checkout, f"PYTHON={checkout}/python", target)
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


@pytest.mark.parametrize("target", [".venv/.demo", ".venv-tensorflow/.installed"])
def test_a_python_that_is_too_old_is_refused_before_anything_is_made_with_it(checkout: Path, target: str) -> None:
    (checkout / "old").touch()
    for python, expected in (
        (f"{checkout}/python", f"{checkout}/python is no Python 3.11 or newer: install one"),
        ("no-such-python", "no-such-python is no Python 3.11 or newer: install one"),
        ("", "no Python 3.11 or newer found: install one"),
    ):
        done = run(checkout, f"PYTHON={python}", target)
        assert done.returncode == 2
        assert expected in done.stderr
    assert not (checkout / "log").exists()
    assert not (checkout / ".venv-tensorflow").exists()


def engine(checkout: Path, target: str, *engines: str, more: str = "") -> tuple[int, str, str]:
    """The status, the commands and the messages of make on a machine with these engines."""
    programs = checkout / "programs"
    programs.mkdir(exist_ok=True)
    for name in engines:
        (programs / name).write_text(ENGINE)
        (programs / name).chmod(0o755)
    (checkout / "log").write_text("")
    command = [str(shutil.which("make")), f"PYTHON={checkout}/python", target, f"DEV_ARGS={more}"]
    # make starts what needs no shell by itself.
    (programs / "echo").unlink(missing_ok=True)
    (programs / "echo").symlink_to(str(shutil.which("echo")))
    env = {"PATH": str(programs)}
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)
    return done.returncode, (checkout / "log").read_text(), done.stdout + done.stderr


def test_the_mesh_of_containers_takes_the_engine_that_there_is(checkout: Path) -> None:
    file = "compose -f deploy/docker-compose.yaml"
    status, commands, said = engine(checkout, "dev-up", "docker", "podman", more="-f other.yaml")
    assert (status, commands) == (0, f"docker {file} -f other.yaml up --detach --wait\n")
    assert "http://localhost:18501" in said
    (checkout / "unhealthy").touch()
    status, _, said = engine(checkout, "dev-up", "docker")
    assert status == 2
    assert f'"docker {file} logs" tells more' in said
    assert "http://localhost:18501" not in said
    (checkout / "unhealthy").unlink()
    (checkout / "docker-has-no-compose").touch()
    assert engine(checkout, "dev-down", "docker", "podman")[:2] == (0, f"podman {file} down --volumes\n")
    (checkout / "podman-has-no-compose").touch()
    status, commands, said = engine(checkout, "dev-up", "docker", "podman")
    assert (status, commands) == (2, "")
    assert 'neither "docker compose" nor "podman compose" works here: install' in said


def test_without_an_engine_it_says_what_needs_none(checkout: Path) -> None:
    status, commands, said = engine(checkout, "dev-down")
    assert (status, commands) == (2, "")
    assert "meshproxy dev up" in said
