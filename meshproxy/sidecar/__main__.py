"""`python -m meshproxy.sidecar PATH...`: the sidecar without the command line's libraries in its memory.

`meshproxy sidecar` checks its options and becomes this process.
"""

from __future__ import annotations

import gc
import sys

from meshproxy.first import settle
from meshproxy.sidecar import WORKER

NEW_OBJECTS = 10_000
"""Containers that are made until the youngest are looked through for garbage. Thousands of connections, or of
requests of a flood, are none: with 5,000 connections a full collection held up everybody for 213 ms, and does for 77
so."""


def main(arguments: list[str]) -> int:
    """Run until stopped by a signal. Returns the exit status: 0, 1 if it could not run, 3 if the documents have
    problems."""
    settle(reloads=True)
    is_worker = arguments[:1] != [] and arguments[0].startswith(WORKER)
    gc.disable()
    from meshproxy.config.child import OwnLoad

    # Read in a fork while this process imports what it serves with (docs/decisions/0041-what-a-start-takes.md).
    documents = None if is_worker else OwnLoad(arguments)
    from meshproxy.sidecar import start

    # What is there now stays: 58,000 objects. To look through them for garbage would hold up everybody for 30 ms.
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 10, 10)
    gc.enable()
    return start.run(arguments, documents)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
