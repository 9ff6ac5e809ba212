from __future__ import annotations

import asyncio
import errno
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from meshproxy.config.load import load
from meshproxy.config.schema import Documents
from meshproxy.sidecar import WORKER
from meshproxy.sidecar import worker as module
from meshproxy.sidecar.worker import (
    MOST_UNMET,
    Report,
    WorkerSlot,
    make_folder,
    read_documents,
    send_reports,
    watch_supervisor,
    write_documents,
)

FIRST = Path(__file__).parents[2] / "deploy" / "examples" / "first.yaml"


@pytest.fixture
def documents() -> Documents:
    return load([FIRST])


@pytest.mark.parametrize(
    "slot",
    [
        WorkerSlot(0, 18500, 18501, 18503, Path("/tmp/x")),
        WorkerSlot(63, 1, 0, 0, Path("/a:b/c"), is_restart=True),
    ],
    ids=["first", "restarted"],
)
def test_a_slot_is_one_argument(slot: WorkerSlot) -> None:
    assert WorkerSlot.read(slot.option()) == slot
    assert slot.option().startswith(WORKER)


def test_a_report_names_what_is_missing_up_to_a_bound() -> None:
    assert Report.of("127.0.0.1:1", "f", {"a": True, "b": True}) == Report("127.0.0.1:1", "f", True)
    assert Report.of("127.0.0.1:1", "f", {"a": True, "b": False}) == Report("127.0.0.1:1", "f", False, ("b",))
    many = Report.of("127.0.0.1:1", "f", {str(number): False for number in range(1_000)})
    assert not many.is_ready
    assert len(many.unmet) == MOST_UNMET
    # A longer name than any condition has fits as often as that.
    longest = Report.of("127.0.0.1:1", "f", {f"{number:0>600}": False for number in range(1_000)})
    assert len(msgspec.json.encode(longest)) < module.REPORT_BYTES


def test_the_folder_is_for_us_alone() -> None:
    folder = make_folder()
    try:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        folder.rmdir()


def test_without_a_temporary_folder_there_is_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tempfile.mkdtemp

    def read_only(**where: str) -> str:
        if "dir" not in where:
            raise FileNotFoundError("no usable temporary directory")
        return made(**where)

    monkeypatch.setattr(tempfile, "mkdtemp", read_only)
    folder = make_folder()
    folder.rmdir()
    assert folder.parent == Path("/dev/shm")


def test_without_any_folder_it_says_what_to_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(**where: str) -> str:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkdtemp", read_only)
    with pytest.raises(OSError, match="mount an empty one at /tmp"):
        make_folder()


def test_documents_are_handed_down_as_they_are(tmp_path: Path, documents: Documents) -> None:
    write_documents(tmp_path, documents)
    write_documents(tmp_path, documents)
    assert read_documents(tmp_path) == documents
    assert [entry.name for entry in tmp_path.iterdir()] == ["documents"]


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a control socket: the supervisor's, and the one that this process has as a worker."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr(module, "CONTROL_SOCKET", theirs.fileno())
    with ours, theirs:
        yield ours, theirs


async def test_reports_are_sent_until_cancelled_and_never_waited_for(
    control: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _ = control
    monkeypatch.setattr(module, "REPORT_PERIOD", 0.0)
    sent = 0

    def read() -> Report:
        nonlocal sent
        sent += 1
        return Report("127.0.0.1:1", str(sent), True)

    task = asyncio.ensure_future(send_reports(read))
    async with asyncio.timeout(60):
        # More than the socket holds: reports that do not fit are lost.
        while sent < 5_000:
            await asyncio.sleep(0)
    received = msgspec.json.decode(ours.recv(module.REPORT_BYTES), type=Report)
    assert received == Report("127.0.0.1:1", "1", True)
    ours.close()
    before = sent
    async with asyncio.timeout(60):
        while sent == before:
            await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_end_of_the_supervisor_is_noticed(
    control: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    ours, theirs = control
    theirs.setblocking(False)
    exited = asyncio.Event()
    folder = tmp_path / "folder"
    folder.mkdir()
    watch_supervisor(asyncio.get_running_loop(), folder, exited.set)
    ours.send(b"?")
    await asyncio.sleep(0.02)
    assert not exited.is_set()
    ours.close()
    await asyncio.wait_for(exited.wait(), 60)
    assert not folder.exists()
