"""Every query of every board, answered by a real Prometheus that has scraped a mesh under load.

With `BOARD_PICTURES=FOLDER` (`make boards`) it draws the boards: docs/boards.md has the pictures.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import pytest_asyncio

from meshproxy.monitoring.boards import BOARDS
from meshproxy.monitoring.panels import Board, Variable
from tests.conformance.board_mesh import MODEL, board_mesh
from tests.conformance.board_picture import draw
from tests.conformance.scraping import Prometheus, running_prometheus

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

PICTURES = os.environ.get("BOARD_PICTURES", "")
SECONDS = 20.0 if PICTURES else 5.0
"""Of each part of the run: then the new version gets more of the traffic."""
WEIGHTS = (5, 25, 60)
QUIET = {
    ("Limits exceeded", "{{direction}} {{limit}}"): "nobody exceeds a limit",
    ("HTTP/2 stream errors", "{{side}} {{kind}}"): "no stream is broken off",
    ("Connections that could not be opened", "{{server}} {{reason}}"): "everything can be reached",
    ("Lost", "spans"): "none are exported",
    ("Fallbacks", "{{route}}"): "the other endpoint of the server is there",
    ("Audit trail cannot be written", "{{instance}}"): "it can",
    ("Is it as it was?", "{{version}} {{signal}}"): "what it was is learnt for three hours",
    ("Against what is expected", "{{version}} {{signal}}"): "and so is what is expected",
    ("How far answers are from what they were", "{{version}} {{signal}}"): "and what is in answers",
}
"""What may be empty in this run, by panel and name of the series, and why."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is asked, and from when until when there is something to be seen."""

    prometheus: Prometheus
    begin: float
    end: float

    async def range(self, query: str) -> list[dict[str, Any]]:
        answer = await self.prometheus.ask(
            "query_range", query=query, start=f"{self.begin}", end=f"{self.end}", step="1"
        )
        found: list[dict[str, Any]] = answer["result"]
        return found


def chosen(query: str, direction: str) -> str:
    """A query as Grafana sends it, when these values are chosen."""
    values = {"namespace": ".*", "instance": ".*", "model": MODEL, "direction": direction, "__rate_interval": "5s"}
    return re.sub(r"\$(\w+)", lambda match: values[match[1]], query)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Run]:
    folder = tmp_path_factory.mktemp("boards")
    async with (
        board_mesh(folder / "mesh") as mesh,
        running_prometheus("newest", folder / "data", mesh.jobs) as prometheus,
    ):
        await prometheus.scraped_after("meshproxy")
        begin = time.time()
        for weight in WEIGHTS:
            await mesh.shift(weight)
            await asyncio.sleep(SECONDS)  # a picture has to be of some length
        yield Run(prometheus, begin, time.time())


def directions(board: Board) -> tuple[str, ...]:
    return ("outbound", "inbound") if any(each.name == "direction" for each in board.variables) else ("inbound",)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
async def test_every_query_has_an_answer(run: Run, board: Board) -> None:
    empty: list[tuple[str, str]] = []
    for panel in board.panels:
        for name, expression in panel.queries:
            if not any([await run.range(chosen(expression, direction)) for direction in directions(board)]):
                empty.append((panel.title, name))
    assert [each for each in empty if each not in QUIET] == []


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
async def test_every_choice_has_values(run: Run, board: Board) -> None:
    for variable in board.variables:
        assert await values(run, variable) != []


async def test_an_endpoint_is_one_of_a_server(run: Run) -> None:
    """Not the port of the target, as the Prometheus Operator has it."""
    found = await run.range("sum by (endpoint, exported_endpoint) (meshproxy_circuit_state)")
    endpoints = [each["metric"] for each in found]
    assert len(endpoints) > 1
    assert all(set(each) == {"endpoint"} and ":" in each["endpoint"] for each in endpoints)


async def values(run: Run, variable: Variable) -> list[str]:
    """What Grafana makes of `label_values`."""
    match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable.query)
    assert match is not None
    found: list[str] = await run.prometheus.ask(f"label/{match[2]}/values", **{"match[]": chosen(match[1], "inbound")})
    return found


async def test_pictures_are_drawn(run: Run, tmp_path: Path) -> None:
    """In docs/ by `make boards`."""
    for board in BOARDS:
        direction = directions(board)[0]
        answers = {
            expression: await run.range(chosen(expression, direction))
            for panel in board.panels
            for _, expression in panel.queries
        }
        picture = draw(board, answers, run.begin, run.end)
        assert ElementTree.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
        (Path(PICTURES or tmp_path) / f"{board.name}.svg").write_text(picture)
