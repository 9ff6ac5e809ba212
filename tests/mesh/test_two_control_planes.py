"""Two control planes with one folder, behind one address: either does for every sidecar."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from meshproxy import __version__
from meshproxy.cli import _control_planes
from meshproxy.control.attestation import make_token
from meshproxy.control.check import Answer, check
from meshproxy.control.fleet import members
from meshproxy.control.store import FolderStore
from meshproxy.devtools.child import Child
from meshproxy.devtools.local_mesh import TRUST_DOMAIN, Document, LocalMesh, document, local_mesh, replace_documents
from tests.processes.balancer import Balancer
from tests.processes.mesh import control_command
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]


def write_documents(local: LocalMesh, rest: str) -> None:
    documents = [
        document("MeshConfig", {"trustDomain": TRUST_DOMAIN}),
        document("ModelServer", {"endpoints": [{"rest": rest}]}, "models"),
    ]
    replace_documents(local.directory / "documents/mesh.yaml", documents)


def sidecar_of(local: LocalMesh, name: str, address: str) -> list[Document]:
    """The document of an application's sidecar that may join."""
    identity = f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/{name}"
    token = make_token(FolderStore(local.directory / "control"), identity, time.time(), 600.0)
    (local.directory / f"{name}.token").write_text(token)
    control = {
        "address": address,
        "spiffeId": f"spiffe://{TRUST_DOMAIN}/ns/meshproxy/sa/control",
        "trustBundle": "control/authority.pem",
        "folder": name,
        "joinToken": f"{name}.token",
        "documents": True,
    }
    free = {"listen": "127.0.0.1:0"}
    spec = {"controlPlane": control, "outbound": {**free, "server": "models"}, "admin": free, "accessLog": "off"}
    return [document("Sidecar", spec, name)]


async def ask(*controls: Child) -> list[Answer]:
    """What these control planes say."""
    return await asyncio.to_thread(_control_planes.ask, [str(each.listening["web"]) for each in controls], 10.0)


async def shown(*controls: Child) -> dict[str, tuple[str, str]]:
    """State and version of each sidecar, as `meshproxy proxy-status` shows them."""
    statuses = {each.address: each.status for each in await ask(*controls) if each.status is not None}
    found = [member.entry for member in members(statuses)]
    return {entry.sidecar: (entry.state.value, entry.version) for entry in found}


async def wrong(*controls: Child) -> list[str]:
    """The checks of `meshproxy check` that find something."""
    return [each.check for each in check(await ask(*controls), __version__) if each.level]


async def test_one_of_two_is_killed(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as local:
        (local.directory / "documents").mkdir()
        write_documents(local, "127.0.0.1:1")
        command = [*control_command(local, "127.0.0.1:0", "127.0.0.1:0"), "--documents", "documents"]
        # Both make the authority of the empty folder.
        first, second = await asyncio.gather(*(local.start("a control plane", *command) for _ in range(2)))
        balancer = Balancer(*(str(each.listening["control"]) for each in (first, second)))
        async with await balancer.start():
            # The connections of a sidecar alternate: one of them issues its certificate, the other one is shown it.
            documents = {name: sidecar_of(local, name, balancer.address) for name in ("one", "two")}
            await asyncio.gather(*(local.sidecar(name, each) for name, each in documents.items()))

            async def are_in_sync(*controls: Child) -> str:
                """The version that every sidecar has; empty if they differ, or one is missing."""
                found = await shown(*controls)
                versions = {version for state, version in found.values() if state == "in-sync"}
                return versions.pop() if len(versions) == 1 and set(found) == set(documents) else ""

            await until(lambda: are_in_sync(first, second))
            assert await wrong(first, second) == []
            apart = [await shown(each) for each in (first, second)]
            assert sum(len(each) for each in apart) == 2

            # Whichever has lost its stream comes to the other one, with the certificate that it has.
            killed, kept = (first, second) if apart[0] else (second, first)
            await killed.kill()
            await until(lambda: are_in_sync(kept))
            assert await wrong(killed, kept) == [f"the control plane answers ({killed.listening['web']})"]
            before = await are_in_sync(kept)
            write_documents(local, "127.0.0.1:2")

            async def have_another() -> bool:
                return await are_in_sync(kept) not in ("", before)

            await until(have_another)
