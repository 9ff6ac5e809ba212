"""Which series a PromQL expression selects, and which labels it groups by: enough to hold queries against the table of
metrics. `promtool` (`make conformance`) says whether they are PromQL."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from meshproxy.telemetry.metric_table import TABLES
from meshproxy.telemetry.metrics import Type

TOKEN = re.compile(
    r"""\s+|(?P<text>"[^"]*"|'[^']*')|(?P<number>\d[\w.]*|\$__\w+)|(?P<name>[a-zA-Z_:][\w:]*)|(?P<sign>=~|!~|!=|[<>=]=|.)"""
)
GROUPS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
WORDS = frozenset({"and", "or", "unless", "bool", "offset", "inf", "NaN"})
TARGET = frozenset({"job", "instance", "namespace", "pod"})
"""Labels that Prometheus gives to every series of a target."""


@dataclass(frozen=True, slots=True)
class Selected:
    """What one expression names."""

    series: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    """Metrics, each with the labels that it is selected by."""
    groups: list[str] = field(default_factory=list)
    """Labels of `by`, `on` and their like."""


def read(expression: str) -> Selected:
    """Raises ValueError for what is no expression of such names."""
    tokens = [match for match in TOKEN.finditer(expression) if match[0].strip()]
    found = Selected()
    at = 0

    def word(offset: int = 0) -> str:
        return tokens[at + offset][0] if at + offset < len(tokens) else ""

    def labels(close: str) -> list[str]:
        """The names up to `close`, of label matchers or of a list."""
        nonlocal at
        names = []
        while (text := word()) != close:
            if not text:
                raise ValueError(f"{close} is missing: {expression}")
            if tokens[at]["name"]:
                names.append(text)
            at += 1
        at += 1
        return names

    while at < len(tokens):
        name = tokens[at]["name"]
        at += 1
        if name is None or name in WORDS:
            continue
        if name in GROUPS:
            at += 1
            found.groups.extend(labels(")"))
        elif word() == "{":
            at += 1
            found.series.append((name, tuple(labels("}"))))
        elif word() != "(" and word() not in GROUPS:
            found.series.append((name, ()))
    return found


def known() -> dict[str, frozenset[str]]:
    """Every series that a page may have, with its labels."""
    series = {}
    for metric in (metric for rows in TABLES.values() for metric in rows):
        labels = frozenset(metric.labels)
        if metric.type is Type.HISTOGRAM:
            series[f"{metric.name}_bucket"] = labels | {"le"}
            series[f"{metric.name}_sum"] = series[f"{metric.name}_count"] = labels
        else:
            series[metric.name] = labels
    return series


def problems(expression: str, recorded: dict[str, frozenset[str]] | None = None) -> list[str]:
    """Names of metrics and labels that no page has. `recorded`: series of rules, with their labels."""
    have = {**known(), **(recorded or {}), "up": frozenset()}
    selected = read(expression)
    if not selected.series:
        return [f"nothing is selected by {expression}"]
    found = []
    reachable = set(TARGET)
    for name, labels in selected.series:
        if name not in have:
            found.append(f"there is no series {name}")
            continue
        reachable |= have[name]
        found += [f"{name} has no label {label}" for label in labels if label not in have[name] | TARGET]
    found += [f"nothing selected has the label {label}" for label in selected.groups if label not in reachable]
    return found
