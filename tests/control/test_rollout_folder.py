"""The state of a rollout in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.control.rollout_folder import FOLDER, FolderKeeper
from meshproxy.control.rollouts import KeepFailed
from meshproxy.rollout.analysis import Analysis
from meshproxy.rollout.judge import Judge, State
from meshproxy.rollout.steps import Notice, RolloutStatus
from meshproxy.rollout.window import ArmWindow, bucket


async def test_it_survives_a_restart(tmp_path: Path) -> None:
    status = RolloutStatus("r1", 3, weight=10.0, notices=[Notice(1.0, "Started", "it has 10 %")])
    arm = ArmWindow(calls=5, failures={"grpc 13": 1}, latency={bucket(0.1): 4})
    Judge(Analysis(), status.evidence).add(arm, arm)
    assert status.evidence != State()
    keeper = FolderKeeper(tmp_path)
    assert await keeper.load("half") is None
    await keeper.keep("half", status)
    assert await FolderKeeper(tmp_path).load("half") == status
    assert keeper.is_leader()


async def test_a_file_that_is_not_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "half.json").write_text("[]")
    with pytest.raises(KeepFailed, match=r"half\.json"):
        await FolderKeeper(tmp_path).load("half")


async def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file")
    with pytest.raises(KeepFailed, match="cannot be written"):
        await FolderKeeper(tmp_path).keep("half", RolloutStatus("r", 1))
