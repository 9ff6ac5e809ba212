"""Why a file that somebody mounts for us cannot be read, or is not followed any more, and what to do next.

A single file that is mounted (`subPath` in Kubernetes, `-v FILE:FILE` of Docker) stays the one that it was. When it is
replaced outside, as the kubelet does and whoever renames a new file over it, the mount keeps the old one, which has no
name any more. Nothing else tells: its content, its times and its number are what they were.

Source: proc_pid_mountinfo(5); the kernel writes "//deleted" behind the root of a mount that has been removed
(fs/d_path.c).
"""

from __future__ import annotations

import os
from errno import EACCES, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
_ROOT, _PLACE = 3, 4
_LASTING = {ENOENT, ENOTDIR, EACCES, EPERM, ELOOP, ENAMETOOLONG, EISDIR}
_REMOVED = "//deleted"
_REPLACED = "replaced or removed where it is mounted from, and the mount keeps the old one: "
_FILE = "mount its folder, not the file alone (in Kubernetes without subPath), and restart the container"
_FOLDER = "restart the container"
_told: set[Path] = set()
"""What is not said again: it stays so until the container is restarted."""


def not_followed(path: Path) -> str:
    """What to say of a file, or a folder, that has been replaced outside of its mount; empty if it has not."""
    try:
        has_name = path.stat().st_nlink > 0
    except OSError:
        return ""  # whoever reads it says so
    if has_name or not _is_removed_outside(path):
        return ""
    return f"{_REPLACED}{_FOLDER if path.is_dir() else _FILE}"


def tell_not_followed(path: Path) -> None:
    """Log it, once for each file: for who reads the file again and again, and goes on with the old one."""
    if path not in _told and (problem := not_followed(path)):
        import logging  # not above: a child that loads documents has no use for it

        _told.add(path)
        logging.getLogger(__name__).error("%s was %s", path, problem)


def why(path: Path, error: OSError) -> str:
    """Why `path` cannot be read, or nothing written there, and for what can be mended from outside, how."""
    text = error.strerror or str(error)
    if error.errno == ENOENT and _is_removed_outside(path):
        return f"{text}: its folder was removed where it is mounted from: restart the container"
    if error.errno == EACCES:
        return f"{text}{_who_may(path)}"
    return text


def may_pass(error: OSError) -> bool:
    """Whether nothing of the file is to blame: without descriptors or memory, or while a server of files is away, it
    cannot be read, and no change of it tells when it can."""
    return error.errno not in _LASTING


def _is_removed_outside(path: Path) -> bool:
    """Whether the mount that `path` is in is of something that has been removed."""
    try:
        lines = os.fsdecode(MOUNTS.read_bytes()).split("\n")[:-1]
    except OSError:
        return False
    real = os.path.realpath(path)
    found, root = "", ""
    for fields in (line.split(" ") for line in lines):
        place = _unescaped(fields[_PLACE])
        is_around = real == place or real.startswith(place.rstrip("/") + "/")
        if is_around and len(place) >= len(found):  # the last one of a place is on top
            found, root = place, fields[_ROOT]
    return root.endswith(_REMOVED)


def _unescaped(name: str) -> str:
    for escaped, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        name = name.replace(escaped, character)
    return name


def _who_may(path: Path) -> str:
    """Whose the file is, or the folder that it would be in, or the first one that cannot be searched; and who we
    are."""
    real = Path(os.path.realpath(path))
    closed = next((each for each in reversed(real.parents) if not os.access(each, os.X_OK)), real)
    while not os.path.exists(closed) and closed != closed.parent:  # noqa: PTH110 - which never raises
        closed = closed.parent
    try:
        status = closed.stat()
    except OSError:
        return ""  # it was there a moment ago
    groups = ", ".join(str(group) for group in sorted({os.getegid(), *os.getgroups()}))
    return (
        f": {closed} is of user {status.st_uid} and group {status.st_gid} with mode {status.st_mode & 0o7777:04o}, and"
        f" this process is user {os.geteuid()} in group {groups}: give it access (in Kubernetes fsGroup of the pod,"
        " and defaultMode 0440 of a volume that is read)"
    )
