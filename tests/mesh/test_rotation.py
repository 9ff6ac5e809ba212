"""Certificates rotate under load: no request is lost, no child process is started, no token or decision is forgotten,
whatever the documents say."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshproxy.devtools.ca import DevelopmentCA, IssuedCertificate
from meshproxy.devtools.clients import SERVER_NAME, RestClient, tls_context
from meshproxy.devtools.issuer import DevelopmentIssuer
from meshproxy.devtools.local_mesh import TRUST_DOMAIN, LocalSidecar, local_replica, read_series
from tests.processes.calls import PATH, Load
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

ID = f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/server"
ISSUER = DevelopmentIssuer(algorithm="ES256")


@asynccontextmanager
async def sidecar(tmp_path: Path, **spec: Any) -> AsyncIterator[LocalSidecar]:
    """A sidecar whose identity lies in `identity/` as the kubelet mounts a secret of cert-manager."""
    files = {"certificate": "identity/tls.crt", "key": "identity/tls.key", "trustBundle": "identity/ca.crt"}
    directory = tmp_path / "mesh"
    directory.mkdir(mode=0o700)
    (directory / "identity").mkdir()
    first = DevelopmentCA.create(TRUST_DOMAIN)
    mount(directory, "..0", first, first.issue(ID))
    (directory / "jwks.json").write_text(json.dumps(ISSUER.jwks()))
    issuer = {"name": "corp", "issuer": ISSUER.issuer, "keys": {"file": "jwks.json"}, "audiences": ["models"]}
    settings = {"identity": {"files": files}, **spec}
    async with local_replica(directory, mesh={"issuers": [issuer]}, sidecar=settings) as running:
        # Its callers are of another authority than the certificate that it began with.
        mount(directory, "..1", running.mesh.ca, issue(running))
        await rotated(running, processes(spec))
        yield running


def processes(spec: dict[str, Any]) -> int:
    return int(spec.get("workers", 1))


def issue(running: LocalSidecar) -> IssuedCertificate:
    return running.mesh.ca.issue(ID, dns=[SERVER_NAME])


def mount(directory: Path, version: str, ca: DevelopmentCA, issued: IssuedCertificate) -> None:
    """Put a version of the secret in place: a new folder, then the link `..data` is swapped."""
    folder = directory / "identity"
    (folder / version).mkdir()
    for name, content in (("tls.crt", issued.certificate_pem), ("tls.key", issued.key_pem), ("ca.crt", ca.bundle_pem)):
        (folder / version / name).touch(0o600)
        (folder / version / name).write_bytes(content)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data_tmp").symlink_to(version)
    (folder / "..data_tmp").rename(folder / "..data")


async def rotated(running: LocalSidecar, count: int) -> None:
    """Waits until its processes have applied so many certificates, together."""
    await until(lambda: len(running.said("certificate rotated")) == count)


async def workers_of(running: LocalSidecar) -> list[dict[str, Any]]:
    """Its workers, as its admin port describes them."""
    async with RestClient(running.admin, None) as admin:
        return list((await admin.call("GET", "/config")).body["workers"])


async def pages_of_workers(running: LocalSidecar) -> list[dict[str, float]]:
    """The metrics of each worker, which has an admin port of its own."""
    return [await read_series(worker["admin"], "/metrics") for worker in await workers_of(running)]


def faults_of_children(pid: int) -> int:
    """Minor page faults of all children that a process has waited for (proc(5), `cminflt`): a Python has thousands."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[8])


async def shown(running: LocalSidecar) -> bytes:
    """The certificate that a new connection sees, DER."""
    _, writer = await asyncio.open_connection(
        "127.0.0.1", running.port, ssl=tls_context(running.client), server_hostname=SERVER_NAME
    )
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return bytes(der)


def load_on(running: LocalSidecar) -> Load:
    """Callers that keep their connection, and as many that make new ones."""
    return Load(running.inbound, running.client, rest=[True, False] * 3, grpc=[True, False] * 2)


async def misses_with(token: str, running: LocalSidecar) -> dict[str, float]:
    """What caches have missed so far, a call with the token included."""
    async with RestClient(running.inbound, running.client, token) as client:
        assert (await client.call("POST", PATH, {"instances": [2.0]})).status == "200"
    page = await running.metrics()
    return {cache: page[f'meshproxy_cache_misses_total{{cache="{cache}"}}'] for cache in ("tokens", "decisions")}


async def test_no_request_is_lost_and_nothing_is_forgotten(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as running:
        load = load_on(running)
        await load.more(100)
        token = ISSUER.token("alice")
        misses = await misses_with(token, running)
        assert misses["tokens"] == 1
        faults = faults_of_children(running.child.pid)

        for number in (2, 3):
            issued = issue(running)
            mount(running.mesh.directory, f"..{number}", running.mesh.ca, issued)
            await rotated(running, number)
            assert await shown(running) == issued.der
            await load.more(100)
            assert await misses_with(token, running) == misses

        # A pair that does not fit changes nothing.
        wrong = IssuedCertificate(issue(running).certificate_pem, issue(running).key_pem)
        mount(running.mesh.directory, "..4", running.mesh.ca, wrong)
        await until(lambda: running.said("certificate rejected; keeping the previous one"))
        assert await shown(running) == issued.der
        await load.more(100)
        page = await running.metrics()
        assert page["meshproxy_identity_in_sync"] == 0
        assert page["meshproxy_config_in_sync"] == 1
        assert page['meshproxy_identity_rotations_total{result="ok"}'] == 3
        assert 'meshproxy_config_reloads_total{result="ok"}' not in page
        assert faults_of_children(running.child.pid) == faults

        # Documents with a mistake, for which a child is started, do not keep the next one out.
        running.path.write_text(running.path.read_text() + "---\nkind: Nothing\n")
        await until(lambda: running.said("configuration rejected; keeping the previous one"))
        assert faults_of_children(running.child.pid) > faults
        assert await misses_with(token, running) == misses
        issued = issue(running)
        mount(running.mesh.directory, "..5", running.mesh.ca, issued)
        await rotated(running, 4)
        assert await shown(running) == issued.der
        await load.more(100)
        page = await running.metrics()
        assert page["meshproxy_identity_in_sync"] == 1
        assert page["meshproxy_config_in_sync"] == 0
        await load.stop()


async def test_every_worker_rotates_by_itself(tmp_path: Path) -> None:
    async with sidecar(tmp_path, workers=2) as running:
        load = load_on(running)
        await load.more(50)
        issued = issue(running)
        mount(running.mesh.directory, "..2", running.mesh.ca, issued)
        await rotated(running, 4)
        assert {line["worker"] for line in running.said("certificate rotated")} == {0, 1}
        assert {await shown(running) for _ in range(20)} == {issued.der}
        await load.more(50)
        await load.stop()
        for page in await pages_of_workers(running):
            assert page['meshproxy_identity_rotations_total{result="ok"}'] == 2
            assert page["meshproxy_identity_in_sync"] == 1
            assert not any(name.startswith("meshproxy_config_reloads_total") for name in page)


async def test_a_bad_certificate_does_not_end_the_workers_that_serve(tmp_path: Path) -> None:
    """One that dies has none to start with again. The other one serves on with what it has."""
    async with sidecar(tmp_path, workers=2) as running:
        before = await shown(running)
        wrong = IssuedCertificate(issue(running).certificate_pem, issue(running).key_pem)
        mount(running.mesh.directory, "..2", running.mesh.ca, wrong)
        await until(lambda: len(running.said("certificate rejected; keeping the previous one")) == 2)
        os.kill((await workers_of(running))[0]["pid"], signal.SIGKILL)
        await until(lambda: running.said("certificate rejected; the worker waits for a valid one"))
        assert {await shown(running) for _ in range(10)} == {before}
        issued = issue(running)
        mount(running.mesh.directory, "..3", running.mesh.ca, issued)
        await until(lambda: len(running.said("worker listening")) == 3)
        await rotated(running, 3)
        assert {await shown(running) for _ in range(10)} == {issued.der}
