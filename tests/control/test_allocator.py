"""How memory is given out."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import ctypes, sys
from meshproxy.control.allocator import map_large_buffers
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype, libc.free.argtypes = [ctypes.c_size_t], ctypes.c_void_p, [ctypes.c_void_p]
class Usage(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks".split()] + [
        ("rest", ctypes.c_size_t * 4)
    ]
libc.mallinfo2.restype = Usage
if sys.argv[1] == "mapped":
    assert map_large_buffers()
libc.free(libc.malloc(1 << 20))  # from now on, glibc has pieces of this size in its heap
before = libc.mallinfo2().hblks
kept = [libc.malloc(256 << 10) for _ in range(10)]
print(libc.mallinfo2().hblks - before)
"""


def mapped(how: str) -> int:
    """How many of ten buffers are mapped by themselves, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_large_buffers_are_mapped() -> None:
    assert mapped("as it is") == 0
    assert mapped("mapped") == 10
