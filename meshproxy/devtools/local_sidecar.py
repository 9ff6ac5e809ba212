"""A sidecar as a process of its own, for tests and tools: its certificates, its documents, and who may call it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.child import SIDECAR, Child
from meshproxy.devtools.clients import SERVER_NAME, Certificate

TRUST_DOMAIN = "local.example"
EVERY_VERB = (
    *("predict", "classify", "regress", "multi-inference", "metadata", "status"),
    *("reload", "metrics", "profile", "reflect", "unlisted"),
)

Document = dict[str, Any]


@dataclass(frozen=True)
class LocalSidecar:
    """The running process.

    Attributes:
        ca: issues what the sidecar believes.
        client: the certificate of the workload `tests/client`.
    """

    child: Child
    directory: Path
    ca: DevelopmentCA
    client: Certificate

    @property
    def inbound(self) -> str:
        """Where callers connect, HOST:PORT."""
        return str(self.child.listening["inbound"])

    @property
    def port(self) -> int:
        """The port of `inbound`."""
        return int(self.inbound.rpartition(":")[2])

    @property
    def admin(self) -> str:
        """Where health and metrics are, HOST:PORT."""
        return str(self.child.listening["admin"])

    def workload(self, namespace: str, account: str) -> Certificate:
        """A workload's certificate, newly issued."""
        issued = self.ca.issue(f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}")
        return Certificate(self.client.bundle, *issued.write(self.directory, f"{namespace}-{account}"))


def document(kind: str, spec: Document, name: str = "local") -> Document:
    """A document of ours around a spec."""
    return {"apiVersion": "meshproxy.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def environment(
    rest: str | None = None,
    grpc: str | None = None,
    *,
    mtls: Literal["strict", "permissive", "disabled"] = "strict",
    mesh: Document | None = None,
    sidecar: Document | None = None,
) -> list[Document]:
    """MeshConfig, ModelServer and Sidecar for a model server at these addresses; `mesh` and `sidecar` add to theirs."""
    endpoint = {"rest": rest, "grpc": grpc}
    files = {"certificate": "server.pem", "key": "server-key.pem", "trustBundle": "ca.pem"}
    own: Document = {
        "inbound": {"listen": "127.0.0.1:0", "server": "local"},
        "admin": {"listen": "127.0.0.1:0"},
        "accessLog": "off",
    }
    if mtls != "disabled":
        own["identity"] = {"files": files}
    return [
        document("MeshConfig", {"trustDomain": TRUST_DOMAIN, "mtls": mtls, **(mesh or {})}),
        document("ModelServer", {"endpoints": [{key: value for key, value in endpoint.items() if value}]}),
        document("Sidecar", {**own, **(sidecar or {})}),
    ]


def everything_for_the_client() -> list[Document]:
    """A role over every model and verb, and a binding that gives it to the workload `tests/client`."""
    subject = {"workload": {"namespace": "tests", "serviceAccount": "client"}}
    return [
        document("ModelRole", {"rules": [{"models": ["*"], "verbs": list(EVERY_VERB)}]}, "everything"),
        document("ModelRoleBinding", {"role": "everything", "subjects": [subject]}, "client"),
    ]


@asynccontextmanager
async def local_sidecar(directory: Path, documents: Sequence[Document]) -> AsyncIterator[LocalSidecar]:
    """Runs a sidecar in a folder, which is made if need be, with these documents in `documents.yaml` beside its
    certificates. Raises ChildFailed if it does not start, or does not end with 0."""
    directory.mkdir(mode=0o700, exist_ok=True)
    ca = DevelopmentCA.create(TRUST_DOMAIN)
    bundle = ca.write(directory)
    ca.issue(f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/server", dns=[SERVER_NAME]).write(directory, "server")
    client = ca.issue(f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/client").write(directory, "client")
    path = directory / "documents.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    child = await Child.start("the sidecar", *SIDECAR, str(path), directory=directory)
    try:
        yield LocalSidecar(child, directory, ca, Certificate(bundle, *client))
    finally:
        await child.stop()
    child.check_ended_well()
