"""A mesh that is migrated, from the control plane alone: the other mesh's bundle comes with the documents."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.child import CONTROL, Child
from meshproxy.devtools.clients import Certificate
from meshproxy.devtools.local_mesh import (
    TRUST_DOMAIN,
    Document,
    LocalMesh,
    document,
    environment,
    local_mesh,
    permissive_documents,
    read_series,
    replace_documents,
)
from tests.processes.calls import PATH
from tests.processes.mesh import Mesh
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

BODY = b'{"instances": [2.0]}'
LEGACY = "legacy.example"
CONTROL_DOMAIN = "control.example"
CALLER = f"spiffe://{LEGACY}/ns/batch/sa/nightly"


async def status(address: str, certificate: Certificate) -> str:
    """Of a call on a new connection; empty if it is refused. Certificates of the control plane have no host name."""
    assert certificate.certificate is not None
    context = ssl.create_default_context(cafile=str(certificate.bundle))
    context.check_hostname = False
    context.load_cert_chain(certificate.certificate, certificate.key)
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        writer.write(b"POST %b HTTP/1.1\r\nhost: m\r\ncontent-length: %d\r\n\r\n%b" % (PATH.encode(), len(BODY), BODY))
        line = await reader.readline()
    except (ssl.SSLError, ConnectionError):
        return ""
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    return line.split(b" ")[1].decode() if line else ""


async def control_plane_of_its_own(local: LocalMesh, roots: str) -> tuple[Child, Document]:
    """A control plane of another trust domain, which gives what is in `documents` to sidecars with identities of these
    roots; and the `controlPlane` of such a sidecar, the replica's."""
    addresses = ("--listen", "127.0.0.1:0", "--web", "127.0.0.1:0")
    trust = ("--trust-domain", CONTROL_DOMAIN, "--trust", f"{TRUST_DOMAIN}={roots}")
    command = (*CONTROL, "run", "--folder", "control", *addresses, *trust, "--documents", "documents")
    control = await local.start("the control plane", *command)
    return control, {
        "address": control.listening["control"],
        "spiffeId": f"spiffe://{CONTROL_DOMAIN}/ns/meshproxy/sa/control",
        "trustBundle": "control/authority.pem",
        "folder": "replica",
        "documents": True,
    }


async def test_a_trust_domain_is_added_changed_and_taken_away(tmp_path: Path) -> None:
    legacy, successor = DevelopmentCA.create(LEGACY), DevelopmentCA.create(LEGACY)
    async with local_mesh(tmp_path / "mesh") as local:
        it = await Mesh.start_with_documents(local)
        roots = local.directory / "control/authority.pem"
        nightly, renewed = (
            Certificate(roots, *authority.issue(CALLER).write(local.directory, name))
            for name, authority in (("nightly", legacy), ("renewed", successor))
        )

        async def statuses() -> list[str]:
            return [await status(it.replica.inbound, each) for each in (nightly, renewed)]

        async def are(*expected: str) -> bool:
            return await statuses() == list(expected)

        mesh, subject = it.documents[0]["spec"], {"workload": {"spiffeId": CALLER}}
        binding = document("ModelRoleBinding", {"role": "everything", "subjects": [subject]}, "nightly")

        def trust(*authorities: DevelopmentCA) -> None:
            bundle = "".join(authority.bundle_pem.decode() for authority in authorities)
            mesh["trustDomains"] = [{"name": LEGACY, "bundle": {"inline": bundle}}]
            it.write_documents(permits=True)

        assert await are("", "")
        it.documents.append(binding)
        trust(legacy)
        await until(lambda: are("200", ""))
        trust(successor)
        await until(lambda: are("", "200"))
        it.documents.remove(binding)
        del mesh["trustDomains"]
        it.write_documents(permits=True)
        await until(lambda: are("", ""))
        assert it.replica.said("configuration rejected") == []
        # A key that slipped into the bundle reaches no sidecar, and is not shown.
        key: Any = legacy.issue(CALLER).key_pem.decode()
        mesh["trustDomains"] = [{"name": LEGACY, "bundle": {"inline": legacy.bundle_pem.decode() + key}}]
        it.write_documents(permits=True)
        await until(lambda: it.count("documents_in_sync", 0.0))
        await until(lambda: any("holds a private key" in line for line in it.control.output))
        assert not any(key.splitlines()[1] in line for line in it.control.output)


async def test_sidecars_with_identities_of_another_issuer_have_their_documents_from_here(tmp_path: Path) -> None:
    """All identities are SPIRE's, say, and the control plane, of a trust domain of its own, sends the documents."""
    async with local_mesh(tmp_path / "mesh") as local:
        model_server = await local.model_server()
        rest, grpc = (str(model_server.listening[name]) for name in ("rest", "grpc"))
        mesh, server, sidecar = environment(rest, grpc)
        server["spec"]["workload"] = {"namespace": "tests", "serviceAccount": "server"}
        role, binding = permissive_documents()
        (local.directory / "documents").mkdir()
        path = local.directory / "documents/mesh.yaml"

        def write(*documents: Document) -> None:
            replace_documents(path, [mesh, server, role, *documents])

        write(binding)
        control, sidecar["spec"]["controlPlane"] = await control_plane_of_its_own(local, "ca.pem")
        replica = await local.sidecar("the replica's sidecar", [sidecar])

        async def answers(expected: str) -> bool:
            return await status(replica.inbound, local.client) == expected

        assert await answers("200")
        write()
        await until(lambda: answers("403"))
        # With the next certificate of the other issuer, the stream goes on.
        local.certificate("tests", "server", name="server")
        await until(lambda: replica.said("certificate rotated"))
        write(binding)
        await until(lambda: answers("200"))

        async def is_in_sync() -> bool:
            page = await read_series(str(control.listening["web"]), "/metrics")
            assert not any(series.startswith("meshproxy_control_issuances_total") for series in page)
            return page['meshproxy_control_sidecars{state="in-sync"}'] == 1

        # The sidecar answers by its documents before the control plane hears that it has them.
        await until(is_in_sync)
