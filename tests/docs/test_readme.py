"""What README shows works as printed: its commands, the documents in it, and the make targets that it names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from meshproxy.config.load import load
from tests import pages

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
PAGES = (README, (REPOSITORY / "CONTRIBUTING.md").read_text(), (REPOSITORY / "benchmarks" / "README.md").read_text())
STATUSES = {"policy": 3}
"""Of the commands that do not end with 0: `policy explain` says by its status that a call is denied."""


def test_there_are_commands_and_documents() -> None:
    assert len(pages.prompted(README)) >= 2
    assert len(pages.blocks(README, "yaml")) >= 2


@pytest.mark.parametrize("block", pages.prompted(README), ids=lambda block: " ".join(block.text.split()[:3]))
def test_a_command_prints_what_stands_below_it(block: pages.Block) -> None:
    program, *arguments = block.text.split()
    assert program == "meshproxy"
    found = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert block.shown
    assert found.stdout.startswith(block.shown)
    assert found.returncode == STATUSES.get(arguments[0], 0)


def test_the_documents_load_beside_those_of_a_sidecar(tmp_path: Path) -> None:
    compose = REPOSITORY / "deploy" / "compose"
    files = [compose / "documents" / "mesh.yaml", compose / "sidecars" / "replica.yaml"]
    for number, block in enumerate(pages.blocks(README, "yaml")):
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(block.text)
    documents = load(files)
    assert documents.roles
    assert documents.routes


@pytest.mark.parametrize("page", PAGES, ids=["README", "CONTRIBUTING", "benchmarks/README"])
def test_every_make_target_that_is_named_exists(page: str) -> None:
    named = set(re.findall(r"(?m)(?:`|^)make ([a-z0-9-]+)", page))
    targets = set(re.findall(r"(?m)^([a-z0-9-]+):", (REPOSITORY / "Makefile").read_text()))
    assert named
    assert named <= targets


def test_the_pythons_are_those_that_are_claimed() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    claimed = [name.rpartition(" ")[2] for name in project["classifiers"] if ":: Python :: 3." in name]
    assert project["requires-python"] == f">={claimed[0]}"
    assert f"Python {claimed[0]} to {claimed[-1]}." in README
    assert f" python{' python'.join(reversed(claimed))} " in (REPOSITORY / "Makefile").read_text()
    image = re.search(
        r"(?m)^ARG BASE=python:(3\.\d+)\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", (REPOSITORY / "Dockerfile").read_text()
    )
    assert image is not None
    assert image[1] in claimed
