"""The alert rules against the table of metrics, their file and their page; `make conformance` has them fire."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshproxy.injection.probes import ADMIN_NAME, WORKER_NAME
from meshproxy.installation.rights import NAME
from meshproxy.monitoring.alerts import RUNBOOK, rules, text
from tests.promql import problems

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "deploy" / "prometheus"
RULES: list[dict[str, Any]] = [rule for group in rules()["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"]: frozenset({"namespace", "direction", "model"}) for rule in RULES if "record" in rule}


def test_the_file_is_up_to_date() -> None:
    command = "python -m meshproxy.monitoring.alerts > deploy/prometheus/alerts.yaml"
    assert (FOLDER / "alerts.yaml").read_text() == text(), f"run {command}"
    assert yaml.safe_load(text()) == rules()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_are_about_series_that_pages_have(rule: dict[str, Any]) -> None:
    assert problems(rule["expr"], RECORDED) == []


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_what_is_said_has_a_page(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert (page, anchor) == (RUNBOOK, rule["alert"].lower())
    section = re.search(
        rf"^### {rule['alert']}\n\n(.*?)(?=^#|\Z)", (REPOSITORY / page).read_text(), re.DOTALL | re.MULTILINE
    )
    assert section is not None
    assert "**Next:**" in section[1]


def test_the_page_has_no_other_alerts() -> None:
    assert re.findall(r"^### (\w+)$", (REPOSITORY / RUNBOOK).read_text(), re.MULTILINE) == [
        rule["alert"] for rule in ALERTS
    ]


def test_what_is_scraped_is_found() -> None:
    sidecars, control = yaml.safe_load_all((FOLDER / "podmonitor.yaml").read_text())
    ports = [each["port"] for each in sidecars["spec"]["podMetricsEndpoints"]]
    assert ports == [ADMIN_NAME, *(f"{WORKER_NAME}{number}" for number in range(4))]
    # The operator's own label of targets; tests/conformance/test_boards.py has what comes of it.
    (dropped,) = {json.dumps(each["relabelings"]) for each in sidecars["spec"]["podMetricsEndpoints"]}
    assert json.loads(dropped) == [{"action": "labeldrop", "regex": "endpoint"}]
    assert control["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/name": NAME}
    (endpoint,) = control["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "web"
