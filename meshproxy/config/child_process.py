"""Runs a module of ours in a child process and takes what it writes: what it imports does not stay in our memory, and
what it does holds up no event loop."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Task:
    """What a child is for."""

    module: str
    """Run as `python -m`."""
    process: str
    """What messages call the child: "the process that loads the documents"."""
    doing: str
    """What it does there: "loading the documents"."""


class ChildFailed(Exception):
    """The child did not end well. The text says how, in one sentence."""


async def output_of(task: Task, arguments: Sequence[str] = (), *, seconds: float) -> bytes:
    """The standard output of a child that has ended with status 0. It is killed if it takes longer than `seconds`, or
    if the caller is cancelled. Raises ChildFailed."""
    import asyncio  # not above: a child imports this module, too, and has no use for an event loop (15 % of its CPU)

    # `-m` alone looks for modules in the working directory first; the child inherits our choice not to.
    options = ("-P", "-m") if sys.flags.safe_path else ("-m",)
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable, *options, task.module, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=-1
        )
    except OSError as error:
        raise ChildFailed(f"{task.process} cannot be started: {error}") from error
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
