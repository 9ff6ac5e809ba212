from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from meshproxy.devtools import demo, demo_outbound
from meshproxy.devtools.clients import Answer
from meshproxy.devtools.demo_mesh import demo_mesh
from meshproxy.devtools.load.generator import Run

MESH: Any = None
"""Not looked at: what would be is replaced."""


def predicted(*values: float) -> list[Answer]:
    return [Answer("200", None, {"predictions": [value]}, 0.001) for value in values]


@pytest.mark.parametrize(
    ("first", "second", "failed", "problem"),
    [
        (900, 100, 0, ""),
        (948, 52, 0, "948 and 52 calls are not 90 and 10 %"),
        (852, 148, 0, "852 and 148 calls are not 90 and 10 %"),
        (853, 147, 0, ""),
        (899, 100, 1, "1 calls failed"),
    ],
)
async def test_a_split_that_is_none_is_noticed(
    first: int, second: int, failed: int, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = predicted(*[2.5] * first, *[3.5] * second) + [Answer("503", "no-upstream", {}, 0.001)] * failed

    async def ask(mesh: Any, model: str, calls: int) -> list[Answer]:
        assert (model, calls) == (demo_outbound.SPLIT_MODEL, 1_000)
        return answers

    monkeypatch.setattr(demo_outbound, "_ask", ask)
    scene = await demo_outbound.split(MESH)
    assert (scene.failed, scene.problem) == (failed, problem)


@pytest.mark.parametrize(
    ("values", "copies", "problem"),
    [
        ([2.5] * 4, {"differs": 4}, ""),
        ([2.5] * 4, {"differs": 3, "answered": 1}, ""),
        ([2.5] * 4, {"differs": 3, "failed": 1}, "3 mirrored responses differ, expected about 4"),
        ([2.5] * 4, {"differs": 1, "answered": 3}, "1 mirrored responses differ, expected about 4"),
        ([2.5] * 4, {"agrees": 4}, "0 mirrored responses differ, expected about 4"),
        ([2.5, 2.5, 2.5, 3.5], {"differs": 4}, "1 calls failed, or were answered by the mirror"),
    ],
)
async def test_a_shadow_that_is_seen_or_not_compared_is_noticed(
    values: list[float], copies: dict[str, int], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(mesh: Any, model: str, calls: int, **pace: float) -> list[Answer]:
        assert pace["at_once"] == 1
        return predicted(*values)

    async def mirrored(mesh: Any) -> dict[str, int]:
        return copies

    monkeypatch.setattr(demo_outbound, "_ask", ask)
    monkeypatch.setattr(demo_outbound, "mirrored", mirrored)
    assert (await demo_outbound.mirror(MESH, 4)).problem == problem


def test_a_run_with_a_fault_says_which() -> None:
    assert demo_outbound.problem_of(Run(100.0, done=1)) == ""
    run = Run(100.0, errors=Counter({"UNAVAILABLE": 3, "closed by the peer": 1}), unanswered=2)
    assert demo_outbound.problem_of(run) == "3 calls failed: UNAVAILABLE"
    assert demo_outbound.problem_of(Run(100.0, unanswered=2)) == "2 calls were not answered"


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_every_scene_comes_out_as_it_must(tmp_path: Path) -> None:
    """The whole second part, with fewer calls."""
    async with demo_mesh(tmp_path, demo.MODELS, demo.CLIENTS) as mesh:
        scenes = [
            await demo_outbound.spread(mesh, 200),
            await demo_outbound.split(mesh, 500),
            await demo_outbound.mirror(mesh, 50),
            await demo_outbound.kill(mesh, 100, 1.5),
        ]
        print("\n".join(map(str, scenes)))
        assert [(scene.calls, scene.failed, scene.problem) for scene in scenes] == [
            (200, 0, ""),
            (500, 0, ""),
            (50, 0, ""),
            (300, 0, ""),
        ]
        lines = await demo_outbound.metric_lines(mesh)
        assert any(line.startswith("meshproxy_endpoints{") and line.endswith(" 3") for line in lines)

        # What goes wrong is noticed.
        await mesh.replicas[0].kill()
        await mesh.replicas[1].kill()
        scene = await demo_outbound.split(mesh, 20)
        assert (scene.failed, scene.problem) == (20, "20 calls failed")
