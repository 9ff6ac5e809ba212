"""docs/injection.md against the code."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from meshproxy.injection.annotations import NAMES
from meshproxy.injection.settings import SYSTEM_NAMESPACES, Resources

PAGE = (Path(__file__).parents[2] / "docs" / "injection.md").read_text()


def test_every_choice_is_listed() -> None:
    table = PAGE.partition("| `config.meshproxy.dev/`")[2].partition("\n\n")[0]
    listed = [name for row in table.splitlines()[2:] for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])]
    assert sorted(listed) == sorted(NAMES)


def test_names_and_numbers() -> None:
    assert all(f"`{name}`" in PAGE for name in SYSTEM_NAMESPACES)
    defaults = Resources()
    assert f"requests of {defaults.cpu_request} and {defaults.memory_request}" in PAGE
    assert f"memory limit of {defaults.memory_limit}" in PAGE


def test_the_model_server_of_the_same_pod_can_be_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"(?s)```yaml\n(.*?)```", PAGE)
    assert yaml.safe_load(block)["metadata"]["name"] == "local"
