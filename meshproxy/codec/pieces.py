"""Pieces of a body that are kept: small ones are joined, so that what is kept takes about as much memory as it has
bytes. A piece of one byte would take 34 to 150 by itself."""

from __future__ import annotations

SMALL = 1_024
"""A piece of fewer bytes is joined to the one before, if that is small too or a joined one."""
JOINED = 16_384
"""A joined piece does not grow beyond so many bytes."""


def join(last: bytes | bytearray, data: bytes) -> bytearray | None:
    """`last`, which may be changed, with `data` behind it; None: they stay apart."""
    if len(data) >= SMALL:
        return None
    if type(last) is bytearray:
        if len(last) + len(data) > JOINED:
            return None
        last += data
        return last
    return bytearray(last + data) if len(last) < SMALL else None
