from __future__ import annotations

import asyncio
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from meshproxy.config.load import load
from meshproxy.config.schema import Documents
from meshproxy.sidecar import worker as module
from meshproxy.sidecar.worker import Seat, make_folder, read_documents, write_documents

FIRST = Path(__file__).parents[2] / "deploy" / "examples" / "first.yaml"


@pytest.fixture
def documents() -> Documents:
    return load([FIRST])


@pytest.mark.parametrize(
    "seat",
    [Seat(0, 18500, 18501, Path("/tmp/x")), Seat(63, 1, 0, Path("/a:b/c"), is_successor=True)],
    ids=["first", "later"],
)
def test_a_seat_is_one_argument(seat: Seat) -> None:
    assert Seat.read(seat.option()) == seat
    assert seat.option().startswith(module.OPTION)


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


def test_documents_are_handed_down_as_they_are(tmp_path: Path, documents: Documents) -> None:
    write_documents(tmp_path, documents)
    write_documents(tmp_path, documents)
    assert read_documents(tmp_path) == documents
    assert [entry.name for entry in tmp_path.iterdir()] == ["documents"]


async def test_the_line_says_listening_and_hears_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    monkeypatch.setattr(module, "LINE", theirs.fileno())
    gone = asyncio.Event()
    (tmp_path / "folder").mkdir()
    seat = Seat(0, 1, 0, tmp_path / "folder")
    with theirs:
        seat.watch_supervisor(asyncio.get_running_loop(), gone.set)
        seat.tell_listening()
        assert ours.recv(64) == module.LISTENING
        ours.send(b"?")
        await asyncio.sleep(0.02)
        assert not gone.is_set()
        ours.close()
        await asyncio.wait_for(gone.wait(), 5)
        assert not seat.folder.exists()
        with pytest.raises(OSError):
            os.write(module.LINE, b"x")
