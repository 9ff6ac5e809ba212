"""A container as a process."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from meshproxy.devtools.node.sandbox import further_process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class ContainerProcess:
    """The first process of a container, which ends all others of it when it ends.

    Attributes:
        pid: its own, as this machine counts. None: it has ended already.
    """

    def __init__(self, unshare: asyncio.subprocess.Process, pid: int | None, environment: Mapping[str, str]) -> None:
        self.pid = pid
        self._unshare = unshare
        self._environment = environment
        self._is_killed = False

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str], log: Path) -> ContainerProcess:
        """Start it, and wait until its files are in place.

        Args:
            command: of `sandbox.first_process`: it writes a line to its standard input when they are.
            environment: all of it.
            log: where its output is added.

        Raises:
            OSError: it did not start; the log may say why.
        """
        reading, writing = os.pipe()
        try:
            try:
                with log.open("ab") as file:
                    unshare = await asyncio.create_subprocess_exec(
                        *command, stdin=writing, stdout=file, stderr=file, env=dict(environment)
                    )
            finally:
                os.close(writing)
            try:
                is_running = await asyncio.to_thread(os.read, reading, 1)
            except asyncio.CancelledError:
                unshare.kill()
                await unshare.wait()
                raise
            if not is_running:
                raise OSError(f"{log}: ended with {await unshare.wait()} before it ran")
        finally:
            os.close(reading)
        try:
            children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()
        except OSError:
            children = []  # it has ended already
        return cls(unshare, int(children[0]) if children else None, environment)

    async def wait(self) -> int:
        """Its exit status, as a container's: 128 and the number of the signal that ended it.

        unshare(1) of util-linux 2.38 says 1 for all signals, so only what was sent from here is told.
        """
        code = await self._unshare.wait()
        return 128 + signal.SIGKILL if code and self._is_killed else code

    def send(self, number: signal.Signals) -> None:
        """A signal from outside: of those that it does not handle, SIGKILL only does anything."""
        if self.pid is not None and self._unshare.returncode is None:
            self._is_killed = self._is_killed or number is signal.SIGKILL
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def running(self) -> str:
        """Its processes, each with what it is and in which state, as this machine counts."""
        found, waiting = [], [] if self.pid is None else [self.pid]
        while waiting:
            pid = waiting.pop()
            try:
                of = Path(f"/proc/{pid}")
                command = (of / "cmdline").read_text().replace("\0", " ").strip()
                state = (of / "stat").read_text().rpartition(")")[2].split()[0]
                waiting += map(int, (of / f"task/{pid}/children").read_text().split())
            except OSError:
                continue  # it has ended
            found.append(f"{pid} {state} {command}")
        return "; ".join(found) or "nothing"

    async def run(
        self, command: Sequence[str], timeout: float | None = None, log: Path = Path(os.devnull)
    ) -> int | None:
        """Run a command in the container, to its end. Returns its exit status; None after `timeout` seconds, or if the
        container has ended.

        Args:
            log: where its output is added.
        """
        if self.pid is None:
            return None
        with log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                *further_process(self.pid, command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=dict(self._environment),
            )
        try:
            async with asyncio.timeout(timeout):
                return await process.wait()
        except TimeoutError:
            return None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
