"""Pages refer to each other and to the code: what they point at must be there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import meshproxy

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *REPOSITORY.glob("*.md"), *(REPOSITORY / "deploy").glob("*.md")])
PACKAGE = Path(meshproxy.__file__).parent
PARTS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def anchors(page: Path) -> set[str]:
    """What headings are called in links, as renderers of Markdown on the web make them."""
    text = re.sub(r"(?s)```.*?```", "", page.read_text())
    headings = re.findall(r"(?m)^#+ +(.*)$", text)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"(?s)```.*?```|`[^`\n]*`", "", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        led = (page.parent / path).resolve() if path else page
        assert led.exists(), target
        if anchor and led.suffix == ".md":
            assert anchor in anchors(led), target


def test_the_maps_show_every_part() -> None:
    index = (DOCS / "README.md").read_text()
    assert sorted(re.findall(r"(?m)^\| `meshproxy/([a-z]+)/`", index)) == PARTS
    assert meshproxy.__doc__ is not None
    assert sorted(re.findall(r"(?m)^    ([a-z]+)/ ", meshproxy.__doc__)) == PARTS


def test_every_decision_and_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()
    for page in DOCS.rglob("*.md"):
        if page != DOCS / "README.md":
            assert f"({page.relative_to(DOCS)})" in index


def test_every_part_says_what_it_is_for() -> None:
    for part in PACKAGE.rglob("__init__.py"):
        first = part.read_text().removeprefix('"""').splitlines()[0]
        assert len(first) > 20, name(part)


@pytest.mark.parametrize("script", sorted((DOCS / "decisions" / "figures").glob("*.py")), ids=name)
def test_the_figures_can_be_printed_anew(script: Path) -> None:
    """It loads, with the code as it is now, and some decision names it. What it prints takes too long for a test."""
    spec = importlib.util.spec_from_file_location(f"figures_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert callable(module.main)
    named = [
        page
        for page in (DOCS / "decisions").glob("*.md")
        if f"docs/decisions/figures/{script.name}" in page.read_text()
    ]
    assert named
