"""Loads documents for a parent process and writes them, or their problems, to standard output.

A sidecar runs this instead of calling `load` itself, so that parsing neither blocks its event loop nor stays in its
memory. Run as `python -m meshproxy.config.child PATH...`; the output is one msgpack value, `Outcome`. With `--sidecar`
before the paths only the Sidecar is needed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from meshproxy.config.codes import Code
from meshproxy.config.problems import ConfigError, Problem
from meshproxy.config.schema import Documents, Sidecar

LOAD_SECONDS = 60.0
SIDECAR = "--sidecar"


class Outcome(msgspec.Struct, frozen=True):
    """The result of loading: documents, or the Sidecar alone, or their problems."""

    documents: Documents | None
    problems: tuple[Problem, ...] = ()
    sidecar: Sidecar | None = None


async def load_in_child(paths: Sequence[str]) -> Documents:
    """`load(paths)`, in a child process that ends afterwards.

    Raises:
        ConfigError: as `load` does; also if the child fails or takes longer than `LOAD_SECONDS`.
    """
    outcome = await _run(paths)
    if outcome.documents is None:
        raise ConfigError(outcome.problems)
    return outcome.documents


async def load_sidecar_in_child(paths: Sequence[str]) -> Sidecar:
    """`load_sidecar(paths)`. Raises as `load_in_child`."""
    outcome = await _run([SIDECAR, *paths])
    if outcome.sidecar is None:
        raise ConfigError(outcome.problems)
    return outcome.sidecar


async def _run(arguments: Sequence[str]) -> Outcome:
    """Raises ConfigError if the child fails."""
    # `-m` alone looks for modules in the working directory first; the child inherits our choice not to.
    options = ("-P", "-m") if sys.flags.safe_path else ("-m",)
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable, *options, "meshproxy.config.child", *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=-1
        )
    except OSError as error:
        raise ConfigError((_failure(f"the process that loads the documents cannot be started: {error}"),)) from error
    try:
        async with asyncio.timeout(LOAD_SECONDS):
            output, _ = await child.communicate()
    except (TimeoutError, asyncio.CancelledError) as error:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()
        if isinstance(error, TimeoutError):
            raise ConfigError((_failure(f"loading the documents took longer than {LOAD_SECONDS:g} s"),)) from None
        raise
    if child.returncode != 0:
        raise ConfigError((_failure(f"the process that loads the documents exited with status {child.returncode}"),))
    try:
        return msgspec.msgpack.decode(output, type=Outcome)
    except msgspec.DecodeError as error:
        raise ConfigError(
            (_failure(f"the result of the process that loads the documents is unreadable: {error}"),)
        ) from error


def _failure(message: str) -> Problem:
    return Problem("", 0, "", "", message, Code.NOT_LOADED)


def main(arguments: Sequence[str]) -> None:
    """Load what the arguments name and write the `Outcome` to standard output."""
    from meshproxy.config.load import load, load_sidecar

    try:
        if arguments[:1] == [SIDECAR]:
            outcome = Outcome(None, sidecar=load_sidecar(arguments[1:]))
        else:
            outcome = Outcome(load(arguments))
    except ConfigError as error:
        outcome = Outcome(None, error.problems)
    sys.stdout.buffer.write(msgspec.msgpack.encode(outcome))


if __name__ == "__main__":
    main(sys.argv[1:])
