"""deploy/README.md: what it says about containers is done, word by word, with Podman behind the name of Docker."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.conftest import REPOSITORY, Engine

FILE = "deploy/docker-compose.yaml"


def commands() -> str:
    page = (REPOSITORY / "deploy" / "README.md").read_text()
    match = re.search(r"(?s)## Containers\n.*?```sh\n(.*?)```", page)
    assert match is not None
    return match[1]


@pytest.fixture
def below(engine: Engine) -> Iterator[Engine]:
    yield engine
    engine.run("docker", "compose", "-f", FILE, "down", "--volumes", check=False)
    shutil.rmtree(Path(REPOSITORY, "certificates"), ignore_errors=True)


def test_the_commands_of_the_page_end_with_a_prediction(below: Engine) -> None:
    answer = below.run("bash", "-euo", "pipefail", "-c", commands(), seconds=180)
    # The newest version is 2, and every model computes x / 2 + 1 + version.
    assert json.loads(answer) == {"predictions": [3.5, 4.0, 5.5]}
    status = below.run("docker", "compose", "-f", FILE, "exec", "sidecar", "meshproxy", "status")
    assert "spiffe://demo.example/" in status
