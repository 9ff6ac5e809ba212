"""Network namespaces that a process makes, enters and removes (network_namespaces(7)). Only root can.

A namespace belongs to a thread, and what the thread starts inherits it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000


class NetworkNamespaces:
    """Those that were made; there are none at first."""

    def __init__(self) -> None:
        self._made: list[str] = []

    @contextmanager
    def stand(self) -> Iterator[None]:
        """At the end this thread is where it was, and all of them are removed. Raises OSError."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            yield
        finally:
            _enter(home)
            os.close(home)
            for name in self._made:
                run("ip", "netns", "del", name)

    def make(self, name: str) -> None:
        """One in which nothing is up. Raises OSError."""
        run("ip", "netns", "add", name)
        self._made.append(name)

    def remove(self, name: str) -> None:
        """Its processes have ended. Raises OSError."""
        self._made.remove(name)
        run("ip", "netns", "del", name)


def path_of(name: str) -> Path:
    """The file of a namespace, as iproute2 has it."""
    return Path("/run/netns", name)


def enter(name: str) -> None:
    """Move this thread into a namespace. Raises OSError."""
    file = os.open(path_of(name), os.O_RDONLY)
    try:
        _enter(file)
    finally:
        os.close(file)


def _enter(file: int) -> None:
    """setns(2); Python has it from 3.12 on."""
    if ctypes.CDLL(None, use_errno=True).setns(file, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def run(*command: str, text: str = "") -> str:
    """What a command writes that must end well.

    Args:
        text: what it reads.

    Raises:
        OSError: it did not end well, or there is no such command.
    """
    ended = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise OSError(f"{' '.join(command)}: {ended.stderr.strip()}")
    return ended.stdout
