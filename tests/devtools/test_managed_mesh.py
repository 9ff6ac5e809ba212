"""A control plane and its two sidecars; what they do together: test_demo_control."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshproxy.config.load import load
from meshproxy.control.attestation import redeem_token
from meshproxy.control.documents import MeshDocuments
from meshproxy.control.sources import Files
from meshproxy.control.status import DocumentsEntry, SidecarState
from meshproxy.control.store import FolderStore
from meshproxy.devtools import managed_mesh
from meshproxy.devtools.child import ChildFailed
from meshproxy.devtools.demo_mesh import documents_directory, write_documents
from meshproxy.devtools.managed_mesh import SIDECARS, ManagedMesh
from tests.control.statuses import entry, status

SOURCE = documents_directory() / "managed"


@pytest.fixture
def mesh_documents(tmp_path: Path) -> Path:
    values = {"REST": "127.0.0.1:1", "GRPC": "127.0.0.1:2", "REPLICA": "127.0.0.1:3"}
    return write_documents(tmp_path / "documents", SOURCE, **values)


async def test_the_documents_can_be_given(mesh_documents: Path) -> None:
    documents = MeshDocuments(Files([str(mesh_documents)]))
    await documents.first()
    assert "ModelServer/models" in documents.held


@pytest.mark.parametrize("name", SIDECARS)
def test_each_sidecar_loads_with_them(mesh_documents: Path, tmp_path: Path, name: str) -> None:
    own = write_documents(
        tmp_path / "own",
        SOURCE / "sidecars",
        CONTROL="127.0.0.1:4",
        FOLDER=str(tmp_path),
        REPLICA="127.0.0.1:3",
        ACCESS_LOG="off",
    )
    documents = load([str(own / f"{name}.yaml"), str(mesh_documents)])
    assert documents.sidecar.metadata.name == name
    assert documents.sidecar.spec.control_plane is not None
    assert documents.sidecar.spec.control_plane.join_token == str(tmp_path / f"{name}.token")


class Asked(ManagedMesh):
    """Its control plane answers with these pages, one after another; the last one again and again."""

    def __init__(self, *pages: Any) -> None:
        self.pages = list(pages)
        nobody: Any = type("Nobody", (), {"last_output": ["what it wrote"]})
        self.control = nobody

    async def status(self) -> Any:
        return self.pages.pop(0) if len(self.pages) > 1 else self.pages[0]


def page(version: str, *states: SidecarState) -> Any:
    return status(*(entry(state) for state in states), documents=DocumentsEntry(version=version))


SYNC, BEHIND = SidecarState.IN_SYNC, SidecarState.BEHIND


async def test_all_sidecars_must_be_in_sync_with_another_version() -> None:
    mesh = Asked(page("a", SYNC, SYNC), page("b", SYNC, BEHIND), page("b", SYNC), page("b", SYNC, SYNC))
    assert await mesh.in_sync() == "a"
    mesh = Asked(page("a", SYNC, SYNC), page("b", SYNC, BEHIND), page("b", SYNC), page("b", SYNC, SYNC))
    assert await mesh.in_sync(but="a") == "b"


async def test_who_has_lost_its_certificate_while_the_control_plane_was_away_can_join_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path / "control")
    store.authority("demo.example", time.time())

    async def start(*_: object) -> str:
        await asyncio.sleep(0)
        return "another"

    monkeypatch.setattr(managed_mesh, "_start_control", start)
    mesh = Asked()
    mesh.folder = tmp_path
    mesh.local = cast("Any", SimpleNamespace(spiffe_id=lambda *account: "/".join(account)))
    mesh.control = cast("Any", SimpleNamespace(listening={"control": "127.0.0.1:1", "web": "127.0.0.1:2"}))
    await mesh.restart_control(60.0)
    assert cast("str", mesh.control) == "another"
    for name, account in SIDECARS.items():
        assert redeem_token(store, (tmp_path / f"{name}.token").read_text(), time.time()) == "/".join(account)


async def test_it_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managed_mesh, "PATIENCE", 0.05)
    with pytest.raises(ChildFailed, match=r"not in sync after 0\.05 s(.|\n)*what it wrote"):
        await Asked(page("a", SYNC, BEHIND)).in_sync()
