"""How memory is given back."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from meshproxy.control import allocator as module
from meshproxy.control.allocator import FreePages
from tests.background import running

FREED = """
import ctypes
from pathlib import Path
from meshproxy.control.allocator import give_back
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype, libc.free.argtypes = [ctypes.c_size_t], ctypes.c_void_p, [ctypes.c_void_p]
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])
pieces = [libc.malloc(8_192) for _ in range(4_000)]
for piece in pieces:
    ctypes.memset(piece, 1, 8_192)
for number, piece in enumerate(pieces):
    if number % 100:  # some in between stay
        libc.free(piece)
before = resident()
give_back()
print(before - resident())
"""


def test_free_pages_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 5_000  # of 8,000


SELDOM = """
import gc
from meshproxy.control.allocator import collect_seldom
collect_seldom()
print(gc.get_threshold()[0], gc.get_freeze_count() > 1_000)
"""


def test_garbage_is_looked_for_less_often() -> None:
    done = subprocess.run([sys.executable, "-c", SELDOM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(module.NEW_OBJECTS), "True"]


async def test_they_are_given_back_while_connections_come(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, given = asyncio.get_running_loop(), asyncio.Semaphore(0)
    monkeypatch.setattr(module, "PERIOD", 0.0)
    monkeypatch.setattr(module, "give_back", lambda: loop.call_soon_threadsafe(given.release))
    pages = FreePages()
    async with asyncio.timeout(60), running(pages.follow()):
        for _ in range(3):
            pages.used()
            pages.used()
            await given.acquire()
        await asyncio.sleep(0.01)  # time for what should not be
        assert given.locked()  # nobody has come since


async def test_and_now_and_then_while_nobody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages leave some, too."""
    loop, given = asyncio.get_running_loop(), asyncio.Semaphore(0)
    monkeypatch.setattr(module, "QUIET_PERIOD", 0.001)
    monkeypatch.setattr(module, "give_back", lambda: loop.call_soon_threadsafe(given.release))
    async with asyncio.timeout(60), running(FreePages().follow()):
        for _ in range(3):
            await given.acquire()
