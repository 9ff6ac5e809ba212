"""Child processes of the demo and the tests: started, awaited until they listen, and stopped."""

from __future__ import annotations

import asyncio
import atexit
import json
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

SIDECAR = (sys.executable, "-m", "meshproxy.sidecar")
"""What `meshproxy sidecar` becomes, with this Python, installed or not. Its arguments are documents."""

MODEL_SERVER = (sys.executable, "-m", "meshproxy.cli.model_server", "--rest-port", "0", "--port", "0")
"""A development model server on free ports."""

ISSUER = (sys.executable, "-m", "meshproxy.cli.issuer", "--port", "0")
"""A development token issuer on a free port."""

CONTROL = (sys.executable, "-m", "meshproxy.cli.control")
"""`meshproxy control`."""

POLICY = (sys.executable, "-m", "meshproxy.cli.policy")
"""`meshproxy policy`."""

_LINE_BYTES = 1 << 20
_LINES_KEPT = 2_000


def interrupted_by_all() -> None:
    """What else ends a command, SIGTERM and the SIGHUP of a terminal that is closed, is Ctrl-C, which stops all
    children and removes their files. They would go on otherwise: for a sidecar SIGHUP is no end.

    Ctrl-C is heard even if it was ignored, as a shell has it for what a script starts with `&`: asyncio cancels what it
    runs only if it is, and nothing but SIGKILL would end the command.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))


class ChildFailed(Exception):
    """A process did not start, or did not end with status 0. The message holds its last output."""


class Child:
    """A process that writes a line of JSON (`"event": "listening"`) when it listens, with its addresses.

    Attributes:
        name: its name in messages.
        listening: that line, decoded.
        output: what it wrote to stdout and stderr, in order of arrival; the newest lines only.
        on_line: called with each further line.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.listening: Mapping[str, Any] = {}
        self.output: deque[str] = deque(maxlen=_LINES_KEPT)
        self.on_line: Callable[[str], object] | None = None
        self._process = process
        self._is_listening = asyncio.Event()
        self._was_killed = False
        self._reader = asyncio.ensure_future(self._read())

    @classmethod
    async def start(cls, name: str, *arguments: str, directory: Path, timeout: float = 120.0) -> Child:
        """Starts a process in a folder and waits until it listens. Raises ChildFailed if it does not in time."""
        process = await asyncio.create_subprocess_exec(
            *arguments,
            cwd=directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE_BYTES,
        )
        child = cls(name, process)
        ready = asyncio.ensure_future(child._is_listening.wait())
        try:
            await asyncio.wait((ready, child._reader), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not child._is_listening.is_set():
                ended = (
                    f"ended with {process.returncode}"
                    if child._reader.done()
                    else f"did not listen within {timeout:g} s"
                )
                raise ChildFailed("\n".join([f"{name} {ended}; its last output:", *child.last_output]))
        except BaseException:
            await child.stop()
            raise
        finally:
            ready.cancel()
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal; nothing happens if the process is gone."""
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def wait(self) -> int:
        """Waits until the process has ended and everything it wrote has been read."""
        code = await self._process.wait()
        await self._reader
        return code

    async def stop(self, timeout: float = 60.0) -> int:
        """Sends SIGTERM and, after `timeout` seconds, SIGKILL; returns the exit code."""
        self.signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(asyncio.shield(self.wait()), timeout)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.wait()

    async def kill(self) -> None:
        """Ends it with SIGKILL, as a crash would. `check_ended_well` accepts that."""
        self._was_killed = True
        self.signal(signal.SIGKILL)
        await self.wait()

    def check_ended_well(self) -> None:
        """Raises ChildFailed if the process ended with anything but 0, unless `kill` ended it."""
        if self.returncode != 0 and not (self._was_killed and self.returncode == -signal.SIGKILL):
            raise ChildFailed(
                "\n".join([f"{self.name} ended with {self.returncode}; its last output:", *self.last_output])
            )

    @property
    def last_output(self) -> list[str]:
        """The newest lines of its output."""
        return list(self.output)[-20:]

    async def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        while line := await stdout.readline():
            text = line.decode(errors="replace").rstrip("\n")
            self.output.append(text)
            if self.on_line is not None:
                self.on_line(text)
            if not self._is_listening.is_set() and text.startswith("{"):
                said = _json_object(text)
                if said.get("event") == "listening":
                    self.listening = said
                    self._is_listening.set()
        await self._process.wait()


def _json_object(text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


_reserved = ExitStack()
"""A socket for each port that `free_port` has told."""
atexit.register(_reserved.close)


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nobody listens: for a process whose port others must know before it listens.

    It stays reserved until this process ends: the system gives it to nobody who asks for any port, and a connection to
    it is refused. Who asks for it by its number gets it, with SO_REUSEADDR, which servers set.
    """
    holder = _reserved.enter_context(socket.socket())
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return int(holder.getsockname()[1])
