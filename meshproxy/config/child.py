"""Loads documents for a parent process and writes them, or their problems, to standard output.

A sidecar runs this instead of calling `load` itself, so that parsing neither blocks its event loop nor stays in its
memory. Run as `python -m meshproxy.config.child PATH...`; the output is one msgpack value, `Outcome`. With `--own`
before the paths it is what a sidecar starts from (`load_own`). That is read in a fork where nothing else runs yet.
"""

import signal
import sys
from collections.abc import Sequence

import msgspec

from meshproxy.config.child_process import ChildFailed, Fork, Task, output_of
from meshproxy.config.codes import Code
from meshproxy.config.file_watch import FileWatch
from meshproxy.config.files import files_of
from meshproxy.config.problems import ConfigError, Problem
from meshproxy.config.schema import Documents, Sidecar

LOAD_SECONDS = 60.0
OWN = "--own"
TASK = Task("meshproxy.config.child", "the process that loads the documents", "loading the documents")


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


async def load_own_in_child(paths: Sequence[str]) -> Documents | Sidecar:
    """`load_own(paths)`. Raises as `load_in_child`."""
    return _own(await _run([OWN, *paths]))


class OwnLoad:
    """`load_own_in_child(paths)` where nothing else runs yet, begun now: in a fork of this process (`Fork`)."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.watch = FileWatch(lambda: files_of(paths))
        """Of the files, from before they are read: what changes meanwhile is not lost."""
        self._fork = Fork(TASK, lambda: written([OWN, *paths]))

    def result(self) -> Documents | Sidecar:
        """Wait for it. Raises as `load_own_in_child`."""
        try:
            return _own(_decode(self._fork.output(seconds=LOAD_SECONDS)))
        except ChildFailed as error:
            raise ConfigError((_failure(str(error)),)) from error


async def _run(arguments: Sequence[str]) -> Outcome:
    """Raises ConfigError if the child fails."""
    try:
        return _decode(await output_of(TASK, arguments, seconds=LOAD_SECONDS))
    except ChildFailed as error:
        raise ConfigError((_failure(str(error)),)) from error


def _decode(output: bytes) -> Outcome:
    """Raises ConfigError."""
    try:
        return msgspec.msgpack.decode(output, type=Outcome)
    except msgspec.DecodeError as error:
        raise ConfigError((_failure(f"the result of {TASK.process} is unreadable: {error}"),)) from error


def _own(outcome: Outcome) -> Documents | Sidecar:
    """Raises ConfigError."""
    found = outcome.documents or outcome.sidecar
    if found is None:
        raise ConfigError(outcome.problems)
    return found


def _failure(message: str) -> Problem:
    return Problem("", 0, "", "", message, Code.NOT_LOADED)


def written(arguments: Sequence[str]) -> bytes:
    """Load what the arguments name: the `Outcome`, encoded."""
    from meshproxy.config.load import load, load_own

    # Whoever waits has given up then, or is gone: a file may be a pipe that nobody writes to.
    signal.alarm(int(LOAD_SECONDS) + 1)
    try:
        found = load_own(arguments[1:]) if arguments[:1] == [OWN] else load(arguments)
        outcome = Outcome(None, sidecar=found) if isinstance(found, Sidecar) else Outcome(found)
    except ConfigError as error:
        outcome = Outcome(None, error.problems)
    finally:
        signal.alarm(0)
    return msgspec.msgpack.encode(outcome)


def main(arguments: Sequence[str]) -> None:
    """Write the `Outcome` of what the arguments name to standard output."""
    sys.stdout.buffer.write(written(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
