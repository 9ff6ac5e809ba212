"""Runs a module of ours in a child process and takes what it writes: what it imports does not stay in our memory, and
what it does holds up no event loop. Before there is an event loop the child may be a fork."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from meshproxy.config.descriptors import cure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PART = 1 << 16
_UNTOLD = -1
"""The errno of uvloop where a single descriptor or two are free: too few for its pipes."""
_FOLDER = str(Path(__file__).parents[2])
"""That our package is in."""


class Task(msgspec.Struct, frozen=True):
    """What a child is for."""

    module: str
    """Run as `python -m`."""
    process: str
    """What messages call the child: "the process that loads the documents"."""
    doing: str
    """What it does there: "loading the documents"."""


class ChildFailed(Exception):
    """The child did not end well. The text says how, in one sentence."""


def _not_started(task: Task, error: OSError) -> ChildFailed:
    """What failed, why, and what to do."""
    number, text = error.errno or 0, str(error)
    if number == _UNTOLD:
        number, text = errno.EMFILE, "the system does not say why, probably for want of free file descriptors"
    return ChildFailed(f"{task.process} cannot be started: {text}{cure(number)}")


def running(module: str) -> tuple[str, ...]:
    """The command that runs another module of ours, found where ours were: `-m` alone looks in the working directory
    first, where `meshproxy` has not looked, but `python -m` has."""
    is_there = not sys.flags.safe_path and sys.path[0] in ("", _FOLDER)
    return (sys.executable, "-m", module) if is_there else (sys.executable, "-P", "-m", module)


async def output_of(task: Task, arguments: Sequence[str] = (), *, seconds: float) -> bytes:
    """The standard output of a child that has ended with status 0. It is killed if it takes longer than `seconds`, or
    if the caller is cancelled. Raises ChildFailed."""
    import asyncio  # not above: a child imports this module, too, and has no use for an event loop (15 % of its CPU)

    try:
        child = await asyncio.create_subprocess_exec(
            *running(task.module), *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=-1
        )
    except OSError as error:
        raise _not_started(task, error) from error
    try:
        async with asyncio.timeout(seconds):
            output, _ = await child.communicate()
    except (TimeoutError, asyncio.CancelledError) as error:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()
        if isinstance(error, TimeoutError):
            raise ChildFailed(f"{task.doing} took longer than {seconds:g} s") from None
        raise
    if child.returncode != 0:
        raise ChildFailed(f"{task.process} exited with status {child.returncode}")
    return output


class Fork:
    """A fork of this process that does one thing. It has imported what we have, and does not start Python again: a
    third of what a start takes (docs/decisions/0041-what-a-start-takes.md). Only while this process has no event loop
    and no threads."""

    def __init__(self, task: Task, work: Callable[[], bytes]) -> None:
        """Begin with `work`, whose result `output` gives."""
        self._task = task
        self._problem: OSError | None = None
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:  # inherited: there would be no exit status
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        ends: tuple[int, ...] = ()
        try:
            self._pipe, other_end = ends = os.pipe()
            self._process = os.fork()
        except OSError as error:
            self._problem = error
            for end in ends:
                os.close(end)
            return
        if self._process == 0:
            os.close(self._pipe)  # or it would not be told that its parent is gone
            _write_and_exit(work, other_end)
        os.close(other_end)

    def output(self, *, seconds: float) -> bytes:
        """Wait until it has ended, as `output_of` does; once. Raises ChildFailed."""
        if self._problem is not None:
            raise _not_started(self._task, self._problem)
        output = bytearray()
        end = time.monotonic() + seconds
        waiting = select.poll()
        waiting.register(self._pipe, select.POLLIN)
        with os.fdopen(self._pipe, "rb", buffering=0) as pipe:
            while waiting.poll(max(0.0, end - time.monotonic()) * 1e3):
                part = pipe.read(_PART)
                output += part
                if not part:
                    break
            else:
                os.kill(self._process, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])
        if status == -signal.SIGKILL and time.monotonic() >= end:
            raise ChildFailed(f"{self._task.doing} took longer than {seconds:g} s")
        if status != 0:
            raise ChildFailed(f"{self._task.process} exited with status {status}")
        return bytes(output)


def _write_and_exit(work: Callable[[], bytes], pipe: int) -> NoReturn:
    """What a fork does. It never returns to what its parent was about to do, and flushes none of its files."""
    status = 1
    try:
        with os.fdopen(pipe, "wb") as file:
            file.write(work())
        status = 0
    except (KeyboardInterrupt, BrokenPipeError):
        pass  # its parent says so, or is gone
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
