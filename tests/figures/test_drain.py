"""No call is lost in rolling restarts. See `rolling_restarts`, which measures clients of other languages too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.figures.rolling_restarts import roll

pytestmark = [pytest.mark.asyncio(loop_factories=["asyncio"]), pytest.mark.timeout(120)]


async def test_rolling_restarts(tmp_path: Path) -> None:
    ended = await roll(tmp_path / "mesh", 300, 30, 8, [])
    print(ended)
    assert ended == "{'OK': 9000}"
