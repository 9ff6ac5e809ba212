"""Memory of TLS connections: uvloop gives each one a buffer of 256 KiB to read into, of which a connection that waits
has used a page or two.

malloc maps blocks of that size apart at first: pages that were never touched take nothing. Once one of them has been
freed, glibc raises its threshold and cuts later ones out of the heap, where the pages are the used ones of whatever was
there before (mallopt(3), "dynamic mmap threshold"). So the threshold is low while such a buffer is made, and only then:
an idle connection takes 43 KB instead of 48, and large bodies, whose pieces come from the heap, cost what they did.
With a low one for good, gRPC of 1 MiB took 60 % more CPU: docs/decisions/0030-tls-buffers-apart.md.

What a large body has used of the buffer is given back when its connection rests.

Does nothing where the C library is not glibc, or the loop is not uvloop's.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

APART = 262_144
"""Bytes: uvloop's buffer (`SSL_READ_MAX_SIZE` of its sslproto)."""
USUAL = 1_048_576
"""Bytes of a block from which glibc maps it apart at all other times: about what its own rule came to, unless a larger
one had been freed."""
KEPT = 2 * USUAL
"""Free bytes at the end of the heap that are not given back, in glibc's own proportion."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def map_apart(loop: asyncio.AbstractEventLoop) -> None:
    """The TLS connection that is made next, in this turn of the loop, gets its buffer as a mapping of its own."""
    mallopt = _libc().mallopt
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, APART)
        loop.call_soon(mallopt, _M_MMAP_THRESHOLD, USUAL)


def give_back(transport: asyncio.BaseTransport) -> None:
    """Give the pages of the buffer of a TLS connection back to the kernel. What was read last has been copied out of it
    by uvloop before anybody else runs; the next read finds pages of zeros. 2 us, and a page fault of the next read."""
    libc = _libc()
    if libc.madvise is None:
        return
    # The transport does not show what reads for it; the garbage collector does.
    for each in gc.get_referents(transport):
        if type(each).__qualname__ == "SSLProtocol" and hasattr(each, "get_buffer"):
            buffer = each.get_buffer(1)  # all of it: it never shrinks
            begin = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
            first, stop = -(-begin // mmap.PAGESIZE), (begin + len(buffer)) // mmap.PAGESIZE
            if first < stop:
                libc.madvise(first * mmap.PAGESIZE, (stop - first) * mmap.PAGESIZE, mmap.MADV_DONTNEED)


class _Libc(NamedTuple):
    """What there is of it: glibc's or Linux's own."""

    mallopt: Callable[[int, int], int] | None
    madvise: Callable[[int, int, int], int] | None


@cache
def _libc() -> _Libc:
    library = ctypes.CDLL(None)
    mallopt = getattr(library, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT)
    madvise = getattr(library, "madvise", None) if hasattr(mmap, "MADV_DONTNEED") else None
    if madvise is not None:
        madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return _Libc(mallopt, madvise)
