"""Hosts of our own: network namespaces that a test makes and removes, joined by a pair of virtual interfaces.

A test is in the application's namespace itself, with everything that it starts: a namespace belongs to a thread, and
what the thread starts inherits it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000
APPLICATION = "10.77.0.1"
MODELS = "10.77.0.2"


def run(*command: str) -> str:
    """A command that must go well; what it wrote."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{' '.join(command)}: {ended.stderr.strip()}"
    return ended.stdout


def enter(path: str) -> None:
    """Moves this thread into a network namespace (setns(2); Python has it from 3.12 on)."""
    libc = ctypes.CDLL(None, use_errno=True)
    file = os.open(path, os.O_RDONLY)
    try:
        if libc.setns(file, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(file)


class Hosts:
    """Two hosts and the link between them.

    Attributes:
        models: a command that runs another one on the host of the models.
    """

    def __init__(self) -> None:
        self._names = {host: f"meshproxy-{host}-{os.getpid()}" for host in ("app", "models")}
        self.models = ("ip", "netns", "exec", self._names["models"])

    def cut(self) -> None:
        """Whatever is sent from now on is lost, and nobody is told."""
        self._link("down")

    def mend(self) -> None:
        self._link("up")

    def _link(self, state: str) -> None:
        run("ip", "-n", self._names["models"], "link", "set", "models", state)

    def filter(self, rules: str) -> None:
        """Rules of nftables for the application's host."""
        run("ip", "netns", "exec", self._names["app"], "nft", rules)

    @contextmanager
    def stand(self) -> Iterator[Hosts]:
        """Makes them, moves this thread to the application's, and removes them at the end."""
        app, models = self._names.values()
        home = f"/proc/{os.getpid()}/task/{os.getpid()}/ns/net"
        before = os.open(home, os.O_RDONLY)
        made = []
        try:
            for name in (app, models):
                run("ip", "netns", "add", name)
                made.append(name)
                run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", app, "link", "add", "app", "type", "veth", "peer", "name", "models", "netns", models)
            for name, interface, address in ((app, "app", APPLICATION), (models, "models", MODELS)):
                run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", interface)
                run("ip", "-n", name, "link", "set", interface, "up")
            enter(f"/run/netns/{app}")
            yield self
        finally:
            enter(f"/proc/self/fd/{before}")
            os.close(before)
            for name in made:
                run("ip", "netns", "del", name)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Two hosts that are up. The test is on the application's."""
    assert os.geteuid() == 0, "namespaces need root"
    assert Path("/proc/self/ns/net").exists(), "this system has no network namespaces"
    with Hosts().stand() as standing:
        yield standing
