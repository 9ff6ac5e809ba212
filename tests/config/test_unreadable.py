"""Files that a mount does not follow, and those that cannot be read. The table of mounts is made up."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshproxy.config import unreadable
from meshproxy.config.unreadable import not_followed, tell_not_followed, why

GONE = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
DENIED = PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.fixture
def nameless(tmp_path: Path) -> Iterator[Path]:
    """A file that was removed while it is open, as one that is mounted and was replaced outside."""
    removed = tmp_path / "a file"
    removed.write_text("old")
    with removed.open() as file:
        removed.unlink()
        yield Path(f"/proc/self/fd/{file.fileno()}")


def mount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *mounts: tuple[str, str]) -> None:
    """What proc_pid_mountinfo(5) has: roots and places, in the order in which they were mounted."""
    table = tmp_path / "mountinfo"
    escaped = [(root, place.replace(" ", r"\040")) for root, place in mounts]
    table.write_text("".join(f"68 46 254:0 {root} {place} rw - ext4 /dev/vda rw\n" for root, place in escaped))
    monkeypatch.setattr(unreadable, "MOUNTS", table)


class TestNotFollowed:
    def test_a_file_that_was_replaced_outside(
        self, nameless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mount(monkeypatch, tmp_path, ("/", "/"), ("/srv/old//deleted", str(nameless.readlink())))
        assert not_followed(nameless).startswith("replaced or removed where it is mounted from")
        assert "without subPath" in not_followed(nameless)

    @pytest.mark.parametrize(
        "mounts",
        [
            (("/", "/"),),  # a here document
            (("/srv/old//deleted", "{}"), ("/srv/new", "{}")),  # the last one of a place is on top
            (("/srv/old//deleted", "{}x"),),  # another place
            (),
        ],
    )
    def test_other_files_without_a_name(
        self, mounts: tuple[tuple[str, str], ...], nameless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = str(nameless.readlink())
        mount(monkeypatch, tmp_path, *((root, place.format(real)) for root, place in mounts))
        assert not_followed(nameless) == ""

    def test_mounts_of_strange_names(self, nameless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only the end of a line ends it: the kernel escapes that one, and no other separator of Unicode."""
        mount(monkeypatch, tmp_path, ("/", "/a\rb\x85c\u2028d"), ("/srv/old//deleted", str(nameless.readlink())))
        assert not_followed(nameless)

    def test_without_a_table(self, nameless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(unreadable, "MOUNTS", tmp_path / "none")
        assert not_followed(nameless) == ""

    def test_files_that_are_there_and_files_that_are_not(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mount(monkeypatch, tmp_path, ("/srv/old//deleted", str(tmp_path)))
        assert not_followed(tmp_path / "none") == ""
        assert not_followed(tmp_path / "mountinfo") == ""  # it has a name


def test_it_is_told_once(
    tmp_path: Path, nameless: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unreadable, "_told", set())
    for _ in range(2):
        tell_not_followed(nameless)
        assert not caplog.records  # it is not so yet
    mount(monkeypatch, tmp_path, ("/", "/"), ("/srv/old//deleted", str(nameless.readlink())))
    for _ in range(2):
        tell_not_followed(nameless)
        tell_not_followed(tmp_path)
    (record,) = caplog.records
    assert record.message.startswith(f"{nameless} was replaced or removed where it is mounted from")


class TestWhy:
    def test_a_folder_that_was_removed_outside(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mount(monkeypatch, tmp_path, ("/", "/"), ("/srv/old//deleted", str(tmp_path)))
        assert why(tmp_path / "tls.crt", GONE).endswith(
            "its folder was removed where it is mounted from: restart the container"
        )

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        assert why(tmp_path / "none", GONE) == "No such file or directory"

    def test_a_file_of_another_user(self, tmp_path: Path) -> None:
        file = tmp_path / "tls.key"
        file.touch(0o400)
        status, groups = file.stat(), sorted({os.getegid(), *os.getgroups()})
        assert why(file, DENIED) == (
            f"Permission denied: {file} is of user {status.st_uid} and group {status.st_gid} with mode 0400, and this"
            f" process is user {os.geteuid()} in group {', '.join(map(str, groups))}: give it access (in Kubernetes"
            " fsGroup of the pod, and defaultMode 0440 of a volume that is read)"
        )

    def test_a_folder_that_cannot_be_searched(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "closed"
        folder.mkdir(0o700)
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)
        assert f": {folder} is of user " in why(folder / "tls.key", DENIED)

    def test_a_file_that_is_gone_meanwhile(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os.path, "exists", lambda path: True)
        assert why(tmp_path / "none", DENIED) == "Permission denied"

    def test_a_folder_in_which_nothing_can_be_made(self, tmp_path: Path) -> None:
        assert f": {tmp_path} is of user " in why(tmp_path / "a/b", DENIED)
