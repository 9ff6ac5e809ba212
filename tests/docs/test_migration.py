"""docs/migration.md: its commands print what stands below them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from meshproxy.cli.main import main
from tests import pages

PAGE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text()


@pytest.mark.parametrize("block", pages.prompted(PAGE), ids=lambda block: block.text.split()[2])
def test_a_command_prints_what_stands_below_it(
    block: pages.Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for saved in pages.blocks(PAGE, "yaml"):
        assert saved.file is not None
        (tmp_path / saved.file).write_text(saved.text)
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(main, block.text.split()[1:])
    assert block.shown is not None
    assert pages.is_as_shown(block.shown, found.stderr + found.stdout), found.output
