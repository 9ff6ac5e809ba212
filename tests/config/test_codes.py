"""The codes of problems: a contract, so complete and documented."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import meshproxy
from meshproxy.config.codes import BY_NUMBER, Code, Severity, page

PACKAGE = Path(meshproxy.__file__).parent
DOCUMENTATION = PACKAGE.parent / "docs" / "config-check.md"


def test_the_documentation_has_the_table() -> None:
    """Print it with `python -m meshproxy.config.codes`."""
    assert page() in DOCUMENTATION.read_text()


def test_numbers_are_unique_and_sorted() -> None:
    assert list(BY_NUMBER) == sorted(BY_NUMBER)
    assert len(BY_NUMBER) == len(Code.__members__)
    for code in Code:
        assert re.fullmatch("MP0[1-9][0-9]{2}", code)
        assert code.text.endswith(".")
        assert "|" not in code.text


def test_every_code_is_given_somewhere() -> None:
    used = {
        node.attr
        for path in PACKAGE.rglob("*.py")
        if path.name != "codes.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Code"
    }
    assert used == set(Code.__members__)


def test_severities_are_ranked() -> None:
    assert [severity.rank for severity in (Severity.ERROR, Severity.WARNING, Severity.INFO)] == [0, 1, 2]
