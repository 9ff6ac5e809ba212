"""A control plane, and two sidecars that have nothing but its address and a join token each: that of a replica, and
that of an application which calls it.

Everything is in one folder beneath that of the other processes: `control/` is the control plane's, `documents/` is what
it gives (`deploy/demo/managed` with addresses filled in), and the sidecars keep what they are given beside it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshproxy.control.attestation import make_token
from meshproxy.control.status import ControlStatus, SidecarState, read_status
from meshproxy.control.store import FolderStore
from meshproxy.devtools.child import CONTROL, ChildFailed, free_port
from meshproxy.devtools.demo_mesh import all_started, documents_directory, write_documents
from meshproxy.identity.private_files import replace_file

if TYPE_CHECKING:
    from meshproxy.devtools.child import Child
    from meshproxy.devtools.local_mesh import LocalMesh, LocalSidecar

SIDECARS = {"replica": ("serving", "tensorflow-serving"), "application": ("shop", "checkout")}
"""The documents of the sidecars, and their namespaces and service accounts."""
LIFETIME = 20.0
"""Of certificates, in seconds: they are renewed while one watches."""
AUDIT_KEY = "audit-key.pem"
CONTROL_AUDIT = "control-audit.jsonl"
PATIENCE = 20.0
"""Seconds within which all sidecars must have new documents."""


@dataclass
class ManagedMesh:
    """The running processes.

    Attributes:
        folder: of everything.
        audit_key: the public key of the audit trails.
        control: the control plane; another one after `restart_control`.
    """

    local: LocalMesh
    folder: Path
    audit_key: bytes
    control: Child
    replica: LocalSidecar
    application: LocalSidecar

    @classmethod
    async def start(
        cls, local: LocalMesh, rest: str, grpc: str, lifetime: float = LIFETIME, access_log: str = "off"
    ) -> ManagedMesh:
        """Starts everything. Raises ChildFailed.

        Args:
            local: stops it at the end.
            rest: the REST port of the model server, HOST:PORT.
            grpc: its gRPC port.
            lifetime: of certificates, in seconds.
            access_log: of both sidecars, as `Sidecar` has it.
        """
        folder = local.directory / "managed"
        folder.mkdir(mode=0o700)
        source = documents_directory() / "managed"
        replica = f"127.0.0.1:{free_port()}"  # the documents name it before it listens
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        replace_file(folder / AUDIT_KEY, pem, 0o600)
        write_documents(folder / "documents", source, REST=rest, GRPC=grpc, REPLICA=replica)
        # The same ports when it is started again: nobody else is given them meanwhile.
        listen, web = (f"127.0.0.1:{free_port()}" for _ in range(2))
        control = await _start_control(local, folder, listen, web, lifetime)
        address = str(control.listening["control"])
        own = write_documents(
            folder / "sidecars",
            source / "sidecars",
            CONTROL=address,
            FOLDER=str(folder),
            REPLICA=replica,
            ACCESS_LOG=access_log,
        )
        _write_tokens(local, folder)
        sidecars = await all_started(
            *(local.sidecar(f"the managed sidecar of the {name}", own / f"{name}.yaml") for name in SIDECARS)
        )
        return cls(local, folder, key.public_key().public_bytes_raw(), control, *sidecars)

    @property
    def web(self) -> str:
        """The web port of the control plane, HOST:PORT."""
        return str(self.control.listening["web"])

    @property
    def policy(self) -> Path:
        """The file with roles and bindings."""
        return self.folder / "documents" / "policy.yaml"

    @property
    def caller(self) -> str:
        """The identity of the application."""
        return self.local.spiffe_id(*SIDECARS["application"])

    @property
    def trails(self) -> tuple[Path, Path]:
        """The audit trails of the control plane and of the replica's sidecar."""
        return self.folder / CONTROL_AUDIT, self.folder / "replica-audit.jsonl"

    async def status(self) -> ControlStatus:
        """What the control plane says. Raises aiohttp.ClientError."""
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.web}/status") as response:
            response.raise_for_status()
            return read_status(await response.read())

    async def in_sync(self, *, but: str = "") -> str:
        """Returns, as soon as all sidecars use the documents in force, their version. Raises ChildFailed.

        Args:
            but: a version that is no longer in force soon.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    status = await self.status()
                    states = [each.state for each in status.sidecars]
                    version = status.documents.version if status.documents is not None else ""
                    if version != but and states == [SidecarState.IN_SYNC] * len(SIDECARS):
                        return version
                    await asyncio.sleep(0.01)
        except TimeoutError:
            lines = [f"the sidecars are not in sync after {PATIENCE:g} s; the last output of the control plane:"]
            raise ChildFailed("\n".join([*lines, *self.control.last_output])) from None

    async def edit_policy(self, *, binds: bool) -> None:
        """Writes the policy, with its binding or without it. Returns when all sidecars use it. Raises ChildFailed."""
        before = await self.in_sync()
        source = (documents_directory() / "managed" / "policy.yaml").read_text()
        documents = [each for each in yaml.safe_load_all(source) if binds or each["kind"] != "ModelRoleBinding"]
        replace_file(self.policy, yaml.safe_dump_all(documents, sort_keys=False).encode(), 0o644)
        await self.in_sync(but=before)

    async def write(self, name: str, text: str) -> None:
        """Writes a file with documents, or removes it. Returns when all sidecars use them. Raises ChildFailed."""
        before = await self.in_sync()
        path = self.folder / "documents" / name
        if text:
            replace_file(path, text.encode(), 0o644)
        else:
            path.unlink()
        await self.in_sync(but=before)

    async def restart_control(self, lifetime: float) -> None:
        """Starts the control plane where it was before, with tokens for sidecars whose certificates have expired
        meanwhile: on a busy machine it takes longer than those live. Raises ChildFailed."""
        before = self.control.listening
        self.control = await _start_control(self.local, self.folder, before["control"], before["web"], lifetime)
        _write_tokens(self.local, self.folder)

    def rotations(self) -> int:
        """How often each sidecar at least has taken another certificate into use."""
        return min(len(each.said("certificate rotated")) for each in (self.replica, self.application))


def _write_tokens(local: LocalMesh, folder: Path) -> None:
    """A join token for each sidecar, where its document says."""
    for name, account in SIDECARS.items():
        token = make_token(FolderStore(folder / "control"), local.spiffe_id(*account), time.time(), 600.0)
        replace_file(folder / f"{name}.token", token.encode(), 0o600)


async def _start_control(local: LocalMesh, folder: Path, listen: str, web: str, lifetime: float) -> Child:
    options = ["--folder", str(folder / "control"), "--documents", str(folder / "documents")]
    options += ["--audit-log", str(folder / CONTROL_AUDIT), "--audit-key", str(folder / AUDIT_KEY)]
    options += ["--trust-domain", local.ca.trust_domain, "--listen", listen, "--web", web]
    return await local.start("the control plane", *CONTROL, "run", *options, "--lifetime", f"{lifetime:g}s")
