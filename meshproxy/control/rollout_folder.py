"""Keeps the status of rollouts in a folder, where no cluster does: a file for each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from meshproxy.control.rollouts import KeepFailed
from meshproxy.control.store import StoreError, read_record
from meshproxy.identity.private_files import replace_file
from meshproxy.rollout.steps import RolloutStatus

if TYPE_CHECKING:
    from pathlib import Path

    from meshproxy.rollout.steps import Notice

FOLDER = "rollouts"


class FolderKeeper:
    """Of a control plane that is alone.

    Args:
        folder: of the control plane.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER

    def is_leader(self) -> bool:
        return True

    async def load(self, name: str) -> RolloutStatus | None:
        try:
            return await asyncio.to_thread(
                read_record, self._path(name), RolloutStatus, "the state of a rollout: remove it to begin anew"
            )
        except StoreError as error:
            raise KeepFailed(str(error)) from None

    async def keep(self, name: str, status: RolloutStatus) -> None:
        await asyncio.to_thread(self._write, name, msgspec.json.encode(status))

    async def tell(self, name: str, notice: Notice) -> None:
        """The log has it."""

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _write(self, name: str, content: bytes) -> None:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            replace_file(self._path(name), content, 0o600)
        except OSError as error:
            raise KeepFailed(f"the state of rollout {name} cannot be written: {error}") from None
