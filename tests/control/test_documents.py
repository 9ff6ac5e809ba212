"""The documents of the mesh."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from meshproxy.config.problems import ConfigError
from meshproxy.control import documents as module
from meshproxy.control.documents import MeshDocuments, read_set

API = "apiVersion: meshproxy.dev/v1alpha1\n"
MESH = f"{API}kind: MeshConfig\nmetadata: {{name: m}}\nspec: {{trustDomain: m.example}}\n"
SERVER = f"{API}kind: ModelServer\nmetadata: {{name: s}}\nspec: {{endpoints: [{{rest: 'a:1'}}]}}\n"
ROUTE = f"{API}kind: ModelRoute\nmetadata: {{name: r}}\nspec: {{models: ['*'], server: s}}\n"
SIDECAR = f"{API}kind: Sidecar\nmetadata: {{name: x}}\nspec: {{inbound: {{server: s}}}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mesh.yaml").write_text(MESH)
    (tmp_path / "models.yaml").write_text(f"{SERVER}---\n{ROUTE}")
    return tmp_path


def problems(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_set([str(folder)])
    return "\n".join(str(problem) for problem in caught.value.problems)


def test_a_set_is_the_text_of_its_files(folder: Path) -> None:
    found = read_set([str(folder)])
    assert found.text == f"{MESH}\n---\n{SERVER}---\n{ROUTE}"
    assert read_set([str(folder)]) == found
    (folder / "models.yaml").write_text(SERVER)
    assert read_set([str(folder)]).version != found.version


def test_what_is_wrong_without_a_sidecar(folder: Path) -> None:
    (folder / "models.yaml").write_text(ROUTE.replace("server: s", "server: t") + "---\n" + SERVER)
    assert 'no ModelServer named "t"' in problems(folder)
    (folder / "models.yaml").write_text(f"{SERVER}---\n{SIDECAR}")
    assert "a sidecar reads its own document from a file of its own" in problems(folder)
    (folder / "mesh.yaml").unlink()
    (folder / "models.yaml").write_text(SERVER)
    assert "there is no MeshConfig" in problems(folder)


def test_sets_that_are_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SET_BYTES", 10)
    assert "larger than 0 MiB" in problems(folder)


async def test_watchers_get_the_next_good_set(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    it = MeshDocuments([str(folder)])
    first = it.current
    assert await it.newer("") == first
    waiting = [asyncio.create_task(it.newer(first.version)) for _ in range(2)]
    await it.reload()  # nothing has changed
    (folder / "models.yaml").write_text("kind: Nothing\n")
    await it.reload()
    await it.reload()
    assert it.current == first
    assert len(it.problems) > 0
    assert not any(task.done() for task in waiting)
    (folder / "models.yaml").write_text(SERVER)
    await it.reload()
    assert it.problems == ()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*waiting) == [it.current, it.current]
    assert it.current.version != first.version
    assert [record.message for record in caplog.records] == [
        "documents rejected; sidecars keep the previous ones",
        "documents changed",
    ]


def test_the_first_set_must_be_good(folder: Path) -> None:
    (folder / "models.yaml").write_text("kind: Nothing\n")
    with pytest.raises(ConfigError):
        MeshDocuments([str(folder)])
