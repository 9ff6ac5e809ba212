"""Children of any module; `test_child` has more of their failures."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshproxy.config.child_process import ChildFailed, Fork, Task, output_of

VERSION = Task("platform", "the process that tells the platform", "telling the platform")


async def test_what_a_module_writes() -> None:
    assert sys.platform in (await output_of(VERSION, seconds=30.0)).decode().lower()


async def test_arguments_are_passed_on() -> None:
    compiling = Task("py_compile", "the process that compiles", "compiling")
    with pytest.raises(ChildFailed, match="the process that compiles exited with status 1"):
        await output_of(compiling, ["/nowhere.py"], seconds=30.0)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(24, "Too many open files"), r"started: \[Errno 24\] Too many open files: raise .*\(ulimit -n\)"),
        # The system's limit, not ours.
        (OSError(23, "Too many open files in system"), r"started: \[Errno 23\] Too many open files in system$"),
        # As uvloop 0.23 does with one or two free descriptors.
        (OSError(-1, "Unknown error -1"), r"started: the system does not say why, probably .* descriptors: raise "),
        (FileNotFoundError(2, "No such file or directory"), r"started: \[Errno 2\] No such file or directory$"),
    ],
)
async def test_one_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, error: OSError, says: str) -> None:
    async def refuse(*arguments: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    with pytest.raises(ChildFailed, match=says):
        await output_of(VERSION, seconds=30.0)


async def test_one_that_takes_too_long() -> None:
    with pytest.raises(ChildFailed, match="telling the platform took longer than 0 s"):
        await output_of(VERSION, seconds=0.0)


FORK = """
import os, signal, sys
from meshproxy.config.child_process import ChildFailed, Fork, Task

def large(): return bytes(range(256)) * 2_000
def broken(): raise RuntimeError("broken work")
def interrupted(): raise KeyboardInterrupt
def leaving(): sys.exit(0)
def ended(): os.kill(os.getpid(), signal.SIGTERM)
def endless(): signal.pause()

sys.stdout.write("once ")  # buffered
fork = Fork(Task("work", "the process that works", "working"), {work})
try:
    sys.stdout.write(str(len(fork.output(seconds={seconds}))))
except ChildFailed as error:
    sys.stdout.write(str(error))
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    sys.stdout.write("; nobody is left")
"""


@pytest.mark.parametrize(
    ("work", "seconds", "said", "traced"),
    [
        ("large", 60, "512000", ""),
        ("broken", 60, "the process that works exited with status 1", "RuntimeError: broken work"),
        ("interrupted", 60, "the process that works exited with status 1", ""),
        ("leaving", 60, "the process that works exited with status 1", "SystemExit: 0"),
        ("ended", 60, "the process that works exited with status -15", ""),
        ("endless", 0, "working took longer than 0 s", ""),
    ],
)
def test_a_fork(work: str, seconds: float, said: str, traced: str) -> None:
    """In a process of its own: there are threads here, and whatever else the tests have."""
    program = FORK.format(work=work, seconds=seconds)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"once {said}; nobody is left"
    assert done.stderr == "" if not traced else done.stderr.splitlines()[-1] == traced


def test_a_fork_whose_parent_has_died_ends() -> None:
    """It has more to say than the pipe holds, and the output of both ends only when both are gone."""
    program = """
import os, time
from meshproxy.config.child_process import Fork, Task
begun, go = os.pipe()
def large():
    os.close(go)
    os.read(begun, 1)  # until its parent is gone
    return bytes(1_000_000)
Fork(Task("work", "the process that works", "working"), large)
print("begun", flush=True)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("begun\n", "")


def test_a_fork_where_the_end_of_children_is_ignored() -> None:
    """As a shell hands it on: `trap '' CHLD`."""
    program = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n" + FORK.format(work="large", seconds=60)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("once 512000; nobody is left", "")


def test_a_fork_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", none_left)
    before = {*Path("/proc/self/fd").iterdir()}
    fork = Fork(VERSION, lambda: b"")
    with pytest.raises(ChildFailed, match=r"the process that tells the platform cannot be started: \[Errno 11\]"):
        fork.output(seconds=30.0)
    assert {*Path("/proc/self/fd").iterdir()} == before
