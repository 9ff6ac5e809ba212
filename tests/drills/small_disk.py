"""A folder that is a disk of its own, so small that a test fills it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meshproxy.devtools.network_namespaces import run

KIB, INODES = 256, 128


class SmallDisk:
    """Mounted at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filling: list[Path] = []

    def fill(self) -> None:
        """Leave no room for a byte, nor for a file."""
        with (self.folder / "filling").open("wb", buffering=0) as file:
            self._filling.append(self.folder / "filling")
            size = 1 << 16
            while size:
                try:
                    file.write(b"\0" * size)
                except OSError:
                    size //= 2
        try:
            for number in range(INODES):
                path = self.folder / f"filling-{number}"
                path.touch()
                self._filling.append(path)
        except OSError:
            return
        raise AssertionError("the disk has more files than it should")

    def free(self) -> None:
        for path in self._filling:
            path.unlink()
        self._filling.clear()


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """A tmpfs, unmounted at the end. Needs root."""
    assert os.geteuid() == 0, "mounts need root"
    folder.mkdir(mode=0o700, parents=True)
    run("mount", "-t", "tmpfs", "-o", f"size={KIB}k,nr_inodes={INODES},mode=0700", "meshproxy", str(folder))
    try:
        yield SmallDisk(folder)
    finally:
        run("umount", str(folder))
