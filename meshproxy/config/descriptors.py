"""What to do where file descriptors run out."""

from __future__ import annotations

import errno

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Of accept(2): none of them is the client's doing, and all of them pass."""


def cure(number: int) -> str:
    """The end of a sentence about a call of the system that failed with this errno; empty if there is no advice. A
    higher limit of this process helps against EMFILE alone: ENFILE is the whole system's limit."""
    if number != errno.EMFILE:
        return ""
    return ": raise the limit of open files (ulimit -n), or lower limits.connections of a sidecar"
