"""Boards of Grafana as classic dashboard JSON: what each panel asks for, and where it stands. Pure.

Only what differs from Grafana's defaults is written. The schema is that of Grafana 10; newer ones migrate it when they
load a board.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

SCHEMA_VERSION = 39
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


class Kind(Enum):
    """How a panel shows its series."""

    LINES = "timeseries"
    AREAS = "stacked"
    """Lines on top of each other: parts of a whole."""
    NUMBER = "stat"
    """The newest value of each."""


HEIGHTS = {Kind.LINES: 8, Kind.AREAS: 8, Kind.NUMBER: 4}


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture.

    Attributes:
        queries: expressions, each with a name for its series by their labels, as in `{{model}}`.
        unit: as Grafana calls it: reqps, s, bytes, percentunit, short.
        note: what a reader has to know to read it.
        most: the end of its axis, if that is known; it begins at 0.
    """

    kind: Kind
    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    note: str
    most: float | None


def lines(title: str, unit: str, *queries: tuple[str, str], note: str = "", most: float | None = None) -> Panel:
    """Queries are (name of the series, expression)."""
    return Panel(Kind.LINES, title, unit, queries, note, most)


def areas(title: str, unit: str, *queries: tuple[str, str], note: str = "", most: float | None = None) -> Panel:
    """As `lines`."""
    return Panel(Kind.AREAS, title, unit, queries, note, most)


def number(title: str, unit: str, expression: str, note: str = "") -> Panel:
    """A single one."""
    return Panel(Kind.NUMBER, title, unit, (("", expression),), note, None)


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a board: a label's values. `many`: several at once, or all."""

    name: str
    title: str
    query: str
    many: bool = True


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard, from top to bottom: rows of panels, with a heading above those that begin a
    part."""

    name: str
    title: str
    note: str
    variables: tuple[Variable, ...]
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]

    @property
    def panels(self) -> list[Panel]:
        return [panel for _, row in self.rows for panel in row]

    def document(self) -> dict[str, Any]:
        """What Grafana imports, or is provisioned with."""
        return {
            "uid": f"meshproxy-{self.name}",
            "title": self.title,
            "description": self.note,
            "tags": ["meshproxy"],
            "schemaVersion": SCHEMA_VERSION,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "links": [
                {
                    "type": "dashboards",
                    "title": "meshproxy",
                    "tags": ["meshproxy"],
                    "asDropdown": True,
                    "keepTime": True,
                }
            ],
            "templating": {"list": [_datasource(), *(_variable(each) for each in self.variables)]},
            "panels": self._placed(),
        }

    def _placed(self) -> list[dict[str, Any]]:
        placed: list[dict[str, Any]] = []
        top = 0
        for heading, row in self.rows:
            if heading:
                at = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
                placed.append({"id": len(placed) + 1, "type": "row", "title": heading, "gridPos": at, "panels": []})
                top += 1
            width, height = COLUMNS // len(row), max(HEIGHTS[panel.kind] for panel in row)
            for place, panel in enumerate(row):
                at = {"x": place * width, "y": top, "w": width, "h": height}
                placed.append({"id": len(placed) + 1, "gridPos": at, **_panel(panel)})
            top += height
        return placed


def _panel(panel: Panel) -> dict[str, Any]:
    is_number = panel.kind is Kind.NUMBER
    custom: dict[str, Any] = {"fillOpacity": 10, "showPoints": "never"}
    if panel.kind is Kind.AREAS:
        custom = {"fillOpacity": 60, "showPoints": "never", "stacking": {"mode": "normal"}}
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.most is not None:
        defaults["max"] = panel.most
    if not is_number:
        defaults["custom"] = custom
    return {
        "type": "stat" if is_number else "timeseries",
        "title": panel.title,
        "description": panel.note,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _number_options() if is_number else _line_options(),
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": DATASOURCE,
                "expr": expression,
                "legendFormat": legend,
                "instant": is_number,
                "range": not is_number,
            }
            for place, (legend, expression) in enumerate(panel.queries)
        ],
    }


def _line_options() -> dict[str, Any]:
    legend = {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def _number_options() -> dict[str, Any]:
    return {"colorMode": "none", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}}


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(variable: Variable) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": variable.name,
        "label": variable.title,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"qryType": 1, "query": variable.query, "refId": variable.name},
        "definition": variable.query,
        "refresh": 2,
        "sort": 1,
    }
    if variable.many:
        # `.*` matches series without the label, too: where Prometheus knows no namespaces.
        found |= {
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }
    return found
