"""docs/upgrade.md lists the checks that are made."""

from __future__ import annotations

import re
from pathlib import Path

from meshproxy.control.precheck import precheck
from meshproxy.installation.kinds import Plan
from tests.control.test_precheck import facts

PAGE = (Path(__file__).parents[2] / "docs" / "upgrade.md").read_text().partition("## What an upgrade")[0]


def test_each_check_is_in_the_table() -> None:
    rows = re.findall(r"(?m)^\| ([a-zA-Z][^|]*?) \|", PAGE[PAGE.index("| check |") :])
    plan = Plan(capture=True)
    found = {general(finding.check) for finding in precheck(facts(plan), plan)}
    assert set(rows[1:]) == found


def general(check: str) -> str:
    """A check without what it is made of."""
    check = re.sub(r"^it serves .*", "it serves GROUP/VERSION", check)
    check = re.sub(r"^you may apply .*", "you may apply KIND", check)
    check = re.sub(r"^\S+\.meshproxy\.dev is not", "NAME is not", check)
    check = check.replace("namespace meshproxy", "namespace NAME")
    return check.partition(" (")[0]
