from __future__ import annotations

from typing import Any

from meshproxy.monitoring.panels import COLUMNS, Board, Variable, areas, lines, number

BOARD = Board(
    "b",
    "A board",
    "About it.",
    (
        Variable("model", "Model", "label_values(up, model)", many=False),
        Variable("job", "Job", "label_values(up, job)"),
    ),
    (
        ("Now", (number("N", "reqps", "up"), number("M", "short", "up", "why"))),
        ("Later", (lines("L", "s", ("{{job}}", "up"), ("b", "up + 1"), most=2.0),)),
        ("", (areas("A", "bytes", ("", "up")), lines("K", "s", ("", "up")), lines("J", "s", ("", "up")))),
    ),
)


def panel(title: str) -> dict[str, Any]:
    return next(each for each in BOARD.document()["panels"] if each["title"] == title)


def test_panels_fill_their_rows_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for each in BOARD.document()["panels"]:
        at = each["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken
        taken |= cells
    rows = {y for _, y in taken}
    assert rows == set(range(len(rows)))
    assert all(x < COLUMNS for x, _ in taken)
    assert {x for x, y in taken if y == max(rows)} == set(range(COLUMNS))


def test_headings_are_where_a_part_begins() -> None:
    kinds = [(each["type"], each["title"]) for each in BOARD.document()["panels"]]
    assert kinds == [
        ("row", "Now"), ("stat", "N"), ("stat", "M"),
        ("row", "Later"), ("timeseries", "L"),
        ("timeseries", "A"), ("timeseries", "K"), ("timeseries", "J"),
    ]  # fmt: skip
    assert [each.title for each in BOARD.panels] == ["N", "M", "L", "A", "K", "J"]


def test_what_a_panel_asks_for() -> None:
    found = panel("L")
    assert [(each["refId"], each["expr"], each["legendFormat"]) for each in found["targets"]] == [
        ("A", "up", "{{job}}"),
        ("B", "up + 1", "b"),
    ]
    assert found["fieldConfig"]["defaults"]["max"] == 2.0
    assert [each["instant"] for each in panel("N")["targets"]] == [True]
    assert panel("A")["fieldConfig"]["defaults"]["custom"]["stacking"] == {"mode": "normal"}
    assert panel("M")["description"] == "why"


def test_choices() -> None:
    source, model, job = BOARD.document()["templating"]["list"]
    assert source["name"] == "datasource"
    assert "allValue" not in model
    assert (job["allValue"], job["query"]["query"]) == (".*", "label_values(up, job)")
