"""docs/policy.md: its documents load, and its commands print what stands below them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from meshproxy.cli.main import main
from tests import pages

PAGE = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the page tells a reader to save."""
    for block in pages.blocks(PAGE, "yaml"):
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text)
    (lines,) = pages.blocks(PAGE, "jsonl")
    (tmp_path / "access.log").write_text(lines.text)
    (changed,) = [block.text for block in pages.blocks(PAGE, "yaml") if block.file is None]
    documents = (tmp_path / "access.yaml").read_text().split("---\n")
    assert "name: payments" in documents[1]
    (tmp_path / "proposed.yaml").write_text("---\n".join([documents[0], changed, *documents[2:]]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_prints_what_stands_below_it(folder: Path) -> None:
    commands = pages.prompted(PAGE)
    assert {block.text.split()[2] for block in commands} == {"explain", "test", "diff", "unused", "matrix"}
    for block in commands:
        _, *arguments = block.text.split()
        found = CliRunner(env={"COLUMNS": "110"}).invoke(main, arguments)
        assert block.shown is not None
        assert pages.is_as_shown(block.shown, found.stdout), found.stdout
        is_answer_no = arguments[1] in ("explain", "diff", "unused")
        assert found.exit_code == (3 if is_answer_no else 0)
