"""What a worker process and its supervisor share: the worker slot, a private directory, and the control socket.

The control socket is a pair of type SOCK_SEQPACKET (unix(7)), so that one message is one read. The worker's end is its
standard input. The worker sends a `Report` twice a second, the first one when it listens. End of file tells it that
the supervisor has exited, for whatever reason; it then drains.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from meshproxy.config.schema import Documents
from meshproxy.identity.private_files import replace_file
from meshproxy.sidecar import WORKER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CONTROL_SOCKET = 0
"""The file descriptor of the worker's end."""
REPORT_BYTES = 65_536
"""The maximum size of one report."""
REPORT_PERIOD = 0.5
"""Seconds between two reports: /readyz of the supervisor is at most so old."""
MOST_UNMET = 16
"""Conditions that one report names."""
NOTE_CHARACTERS = 1_000
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
DOCUMENTS = "documents"
NEWEST = "newest-documents"
"""What the supervisor has taken from its control plane, if it has one that sends documents."""


class Report(msgspec.Struct, frozen=True):
    """What a worker tells its supervisor.

    Attributes:
        admin: the address of the worker's admin port.
        fingerprint: of the documents in use.
        is_ready: whether the worker accepts new requests.
        unmet: readiness conditions that do not hold, the first `MOST_UNMET`.
        notes: what `/readyz?verbose` says beside the conditions, the first `MOST_UNMET`.
    """

    admin: str
    fingerprint: str
    is_ready: bool
    unmet: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, admin: str, fingerprint: str, conditions: dict[str, bool], notes: Sequence[str] = ()) -> Report:
        """The report of a worker with these readiness conditions."""
        unmet = [name for name, holds in conditions.items() if not holds]
        shown = tuple(note[:NOTE_CHARACTERS] for note in notes[:MOST_UNMET])
        return cls(admin, fingerprint, not unmet, tuple(unmet[:MOST_UNMET]), shown)


class WorkerSlot(msgspec.Struct, frozen=True):
    """The place of one worker among the others; a restarted worker gets the slot of its predecessor.

    Attributes:
        number: counted from 0.
        inbound_port: shared by all workers; 0 if nothing listens inbound.
        outbound_port: shared by all workers; 0 if nothing listens outbound.
        admin_port: of this worker alone; 0 lets the kernel choose.
        folder: accessible to this user only.
        is_restart: an earlier worker had this slot.
    """

    number: int
    inbound_port: int
    outbound_port: int
    admin_port: int
    folder: Path
    is_restart: bool = False

    def option(self) -> str:
        """The command line argument that assigns this slot to a process."""
        ports = f"{self.inbound_port}:{self.outbound_port}:{self.admin_port}"
        return f"{WORKER}{self.number}:{ports}:{int(self.is_restart)}:{self.folder}"

    @classmethod
    def read(cls, option: str) -> WorkerSlot:
        """The inverse of `option()`. Raises ValueError for anything else."""
        number, inbound, outbound, admin, is_restart, folder = option.removeprefix(WORKER).split(":", 5)
        return cls(int(number), int(inbound), int(outbound), int(admin), Path(folder), is_restart == "1")


def reachable(host: str) -> str:
    """Where a port that listens on every address is reached from this host: some pages answer on loopback only."""
    return EVERYWHERE.get(host, host)


# In the worker


async def send_reports(read: Callable[[], Report]) -> None:
    """Report to the supervisor until cancelled. A supervisor that does not read misses reports; the worker never
    waits for it."""
    os.set_blocking(CONTROL_SOCKET, False)
    while True:
        with suppress(OSError):
            os.write(CONTROL_SOCKET, msgspec.json.encode(read()))
        await asyncio.sleep(REPORT_PERIOD)


def watch_supervisor(loop: asyncio.AbstractEventLoop, folder: Path, exited: Callable[[], None]) -> None:
    """Call `exited` when the supervisor has exited, and remove its folder, which it could not."""

    def read() -> None:
        try:
            message = os.read(CONTROL_SOCKET, 64)
        except OSError:
            message = b""
        if not message:
            loop.remove_reader(CONTROL_SOCKET)
            remove_folder(folder)
            exited()

    loop.add_reader(CONTROL_SOCKET, read)


# In the supervisor


class WorkersFailed(Exception):
    """Workers crash as soon as they are started, or exited with an error. The text names them."""


# `tempfile` and `shutil` import compression libraries: half a megabyte that a sidecar without workers does not need.


def make_folder() -> Path:
    """A new folder that only this user can access. Containers with a read-only root file system have /dev/shm. Raises
    OSError."""
    import tempfile

    try:
        return Path(tempfile.mkdtemp(prefix="meshproxy-"))
    except OSError:
        with suppress(OSError):
            return Path(tempfile.mkdtemp(prefix="meshproxy-", dir="/dev/shm"))
        raise OSError(
            "several workers share a folder, and neither TMPDIR, /tmp, /var/tmp nor /dev/shm can be written: mount an "
            "empty one at /tmp (emptyDir in Kubernetes), or set workers: 1"
        ) from None


def remove_folder(folder: Path) -> None:
    """Remove the folder and its content; a folder that does not exist is no error."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def write_documents(folder: Path, documents: Documents, name: str = DOCUMENTS) -> None:
    """Store the documents in use for workers that start later: by then the files may hold a configuration that is
    rejected. Or other ones, under their `name`. The folder does not outlive the supervisor. Raises OSError."""
    replace_file(folder / name, msgspec.msgpack.encode(documents), 0o600, survives=False)


def read_documents(folder: Path, name: str = DOCUMENTS) -> Documents:
    """The stored documents. Raises OSError or msgspec.DecodeError."""
    return msgspec.msgpack.decode((folder / name).read_bytes(), type=Documents)
