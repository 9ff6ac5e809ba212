"""The role of a codec on its connection, and the only error that it raises."""

from __future__ import annotations

from enum import Enum


class Role(Enum):
    """The end that is ours: both codecs are written once and play either."""

    CLIENT = "client"
    """We send requests: the upstream side."""
    SERVER = "server"
    """We answer them: the downstream side."""


class LocalProtocolError(Exception):
    """A command came out of order (a body before its head, a second head, more than was declared): our own bug.

    What the peer does wrong is never raised, it is an event.
    """
