"""What a worker and its supervisor have in common: a seat, a folder of their own, and a line between them.

The line is a socket pair whose one end is the worker's standard input. The worker says there that it listens, and
learns from its end that the supervisor is gone, however that went: workers without one drain.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from meshproxy.config.schema import Documents

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

OPTION = "--worker="
LINE = 0
"""The file descriptor of the worker's end."""
LISTENING = b"listening\n"
DOCUMENTS = "documents"


@dataclass(frozen=True, slots=True)
class Seat:
    """One worker's place.

    Attributes:
        number: from 0 on.
        inbound_port: of the inbound address, which the documents may have left open; 0 if nothing comes in.
        outbound_port: the same of the outbound address.
        folder: only our own user's.
        is_successor: an earlier worker had this seat.
    """

    number: int
    inbound_port: int
    outbound_port: int
    folder: Path
    is_successor: bool = False

    @property
    def socket(self) -> Path:
        """Where the worker's admin pages are."""
        return self.folder / f"{self.number}.sock"

    def option(self) -> str:
        """The argument that gives a process this seat."""
        return f"{OPTION}{self.number}:{self.inbound_port}:{self.outbound_port}:{int(self.is_successor)}:{self.folder}"

    @classmethod
    def read(cls, option: str) -> Seat:
        """Raises ValueError unless `option()` wrote it."""
        number, inbound, outbound, is_successor, folder = option.removeprefix(OPTION).split(":", 4)
        return cls(int(number), int(inbound), int(outbound), Path(folder), is_successor == "1")

    # In the worker

    def tell_listening(self) -> None:
        """Requests are welcome."""
        os.write(LINE, LISTENING)

    def watch_supervisor(self, loop: asyncio.AbstractEventLoop, gone: Callable[[], None]) -> None:
        """Have `gone` called when the supervisor is no more, and its folder removed."""

        def read() -> None:
            try:
                said = os.read(LINE, 64)
            except OSError:
                said = b""
            if not said:
                loop.remove_reader(LINE)
                # Nobody else is left to do it, and nobody to ask there.
                remove_folder(self.folder)
                gone()

        loop.add_reader(LINE, read)


class WorkersFailed(Exception):
    """Workers die as soon as they are started, or did not end well. The text says which."""


# `tempfile` and `shutil` bring compression libraries: half a megabyte that a sidecar without workers does not need.


def make_folder() -> Path:
    """A folder for us alone. Containers with a read-only root have a /dev/shm. Raises OSError."""
    import tempfile

    try:
        return Path(tempfile.mkdtemp(prefix="meshproxy-"))
    except OSError:
        return Path(tempfile.mkdtemp(prefix="meshproxy-", dir="/dev/shm"))


def remove_folder(folder: Path) -> None:
    """The folder and what is in it; if it is gone already, all is well."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def write_documents(folder: Path, documents: Documents) -> None:
    """Keep what is in use for workers to come: the files may hold something by then that would not be taken."""
    import tempfile

    descriptor, path = tempfile.mkstemp(dir=folder)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.msgpack.encode(documents))
    Path(path).replace(folder / DOCUMENTS)


def read_documents(folder: Path) -> Documents:
    """What is in use. Raises OSError or msgspec.DecodeError."""
    return msgspec.msgpack.decode((folder / DOCUMENTS).read_bytes(), type=Documents)
