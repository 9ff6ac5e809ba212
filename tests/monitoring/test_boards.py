"""The boards against the table of metrics and their files; `make conformance` has them answered by Prometheus."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from meshproxy.monitoring.boards import BOARDS, main, text
from meshproxy.monitoring.panels import Board
from tests.promql import known, problems

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
BY_NAME = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)


def test_the_files_are_up_to_date(tmp_path: Path) -> None:
    main(tmp_path)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    command = "python -m meshproxy.monitoring.boards deploy/grafana"
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == written, f"run {command}"


@BY_NAME
def test_queries_are_about_series_that_pages_have(board: Board) -> None:
    found = [problem for panel in board.panels for _, expr in panel.queries for problem in problems(expr)]
    assert found == []


@BY_NAME
def test_names_of_series_are_labels_that_are_left(board: Board) -> None:
    for panel in board.panels:
        for name, expr in panel.queries:
            for label in re.findall(r"{{(\w+)}}", name):
                assert re.search(rf"by \([^)]*\b{label}\b", expr) or label == "instance", (panel.title, label)


@BY_NAME
def test_choices_are_used_and_used_ones_are_there(board: Board) -> None:
    used = set(re.findall(r"\$\{?(?!__)(\w+)", text(board)))
    assert used == {"datasource", *(each.name for each in board.variables)}
    for variable in board.variables:
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable.query)
        assert match is not None
        assert problems(match[1]) == []
        assert match[2] in known()[match[1].partition("{")[0]] | {"namespace", "instance"}


@BY_NAME
def test_a_file_is_a_classic_dashboard(board: Board) -> None:
    document = json.loads(text(board))
    assert document["uid"] == f"meshproxy-{board.name}"
    assert [each["id"] for each in document["panels"]] == list(range(1, len(document["panels"]) + 1))
    titles = [(panel.title, panel.kind) for panel in board.panels]
    assert len(titles) == len(set(titles))
