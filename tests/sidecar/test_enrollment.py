"""Certificates from a control plane: over mTLS on loopback, with the real service behind the port."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import stat
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from meshproxy.config import unreadable
from meshproxy.config.sidecars import ControlPlane
from meshproxy.config.values import Address
from meshproxy.control.app import ControlPlane as ControlProcess
from meshproxy.control.attestation import Attestation, make_token
from meshproxy.control.authority import RequestRefused
from meshproxy.control.service_accounts import PodIdentity
from meshproxy.control.settings import Settings
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity import certificates, private_files
from meshproxy.identity.certificates import IdentityFiles, own_identity
from meshproxy.sidecar import enrollment as module
from meshproxy.sidecar.control_channel import ControlChannel
from meshproxy.sidecar.enrollment import Enrollment
from meshproxy.sidecar.new_key import KeyFailure, NewKey, make_key
from meshproxy.transport import grpc_client
from meshproxy.transport.client import ClientError, ClientFailure

ID = "spiffe://m.example/ns/models/sa/resnet"
CONTROL = "spiffe://m.example/ns/meshproxy/sa/control"


@dataclass
class World:
    """A control plane that listens, and what a sidecar needs to join it."""

    process: ControlProcess
    settings: ControlPlane
    folder: Path
    channels: list[ControlChannel] = field(default_factory=list)

    def write_token(self, lifetime: float = 60.0) -> None:
        assert self.settings.join_token is not None
        token = make_token(self.process.store, ID, time.time(), lifetime)
        Path(self.settings.join_token).write_text(token + "\n")

    def files(self) -> IdentityFiles:
        files = self.settings.files
        return IdentityFiles(Path(files.certificate), Path(files.key), Path(files.trust_bundle))

    def serial(self) -> str:
        return own_identity(self.files().read(), "m.example", time.time()).serial


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    process = ControlProcess(
        Settings(
            folder=tmp_path / "control",
            trust_domain="m.example",
            spiffe_id=CONTROL,
            listen=Address("127.0.0.1", 0),
            web=Address("127.0.0.1", 0),
            lifetime=3_600.0,
        )
    )
    process.listener.listen("127.0.0.1", 0)
    host, _, port = process.listener.address.rpartition(":")
    settings = ControlPlane(
        address=Address(host, int(port)),
        spiffe_id=CONTROL,
        trust_bundle=str(tmp_path / "control/authority.pem"),
        folder=str(tmp_path / "sidecar"),
        join_token=str(tmp_path / "token"),
    )
    world = World(process, settings, tmp_path)
    try:
        yield world
    finally:
        for channel in world.channels:
            channel.stop()
        process.listener.stop_accepting()
        await process.server.close()
        await process.listener.close()


async def quick_key() -> NewKey:
    return make_key()


def enrollment(world: World, settings: ControlPlane | None = None, **options: Any) -> Enrollment:
    settings = settings or world.settings
    channel = ControlChannel(settings)
    world.channels.append(channel)
    return Enrollment(settings, channel, **{"make_key": quick_key, **options})


def problems(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.__dict__["fields"]["problem"] for record in caplog.records if "problem" in _fields(record)]


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = record.__dict__.get("fields", {})
    return fields


async def test_it_joins_with_a_token_and_renews_with_its_certificate(world: World) -> None:
    world.write_token()
    it = enrollment(world)
    await it.join()
    identity = own_identity(world.files().read(), "m.example", time.time())
    assert identity.workload.spiffe_id == ID
    assert identity.warnings == ()
    assert stat.S_IMODE((world.folder / "sidecar/identity.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((world.folder / "sidecar").stat().st_mode) == 0o700
    assert await it._attempt()
    assert world.serial() != identity.serial
    assert (it.issued, it.failed) == (2, 0)
    assert it.count() == [(("ok",), 2), (("failed",), 0)]
    assert world.process.metrics.issuances.labels("ok", "").value == 2


async def test_an_answer_that_was_lost_is_asked_for_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same key, for which the join token is spent; what comes after has another one."""

    async def lost(*arguments: Any, **options: Any) -> bytes:
        await grpc_client.call_unary(*arguments, **options)
        raise ClientError(ClientFailure.TIMEOUT, "no answer in time")

    world.write_token()
    it = enrollment(world)
    with monkeypatch.context() as losing:
        losing.setattr(module, "call_unary", lost)
        assert not await it._attempt()
    assert await it._attempt()
    key = world.files().read().key_pem
    assert await it._attempt()
    assert world.files().read().key_pem != key


async def test_a_restart_needs_no_control_plane(world: World) -> None:
    world.write_token()
    it = enrollment(world)
    await it.join()
    serial = world.serial()
    world.process.listener.stop_accepting()
    again = enrollment(world)
    await again.join()
    assert (again.issued, world.serial()) == (0, serial)


async def test_it_waits_for_a_control_plane(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Without a certificate it cannot start: it tries until it has one, and says why it waits."""
    it = enrollment(world, jitter=lambda: 0.0)
    joining = asyncio.create_task(it.join())
    async with asyncio.timeout(60):
        while not it.failed:
            await asyncio.sleep(0.01)
        world.write_token()
        await joining
    assert "the join token" in problems(caplog)[0]
    assert "make one with `meshproxy control join-token`" in problems(caplog)[0]


async def test_it_renews_by_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.process.service._lifetime = 3.0
    world.write_token()
    it = enrollment(world)
    await it.join()
    first = world.serial()
    running = asyncio.create_task(it.run())
    async with asyncio.timeout(60):
        while it.issued < 2:
            await asyncio.sleep(0.05)
    assert world.serial() != first
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def empty_file(folder: Path) -> None:
    (folder / "identity.pem").write_bytes(b"")


@pytest.mark.parametrize("lose", [shutil.rmtree, lambda folder: (folder / "roots.pem").unlink(), empty_file])
async def test_a_folder_that_is_removed_gets_another_certificate(
    world: World,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    lose: Callable[[Path], None],
) -> None:
    """With the one in use: the join token was used up."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    world.write_token()
    it = enrollment(world)
    await it.join()
    first = world.serial()
    running = asyncio.create_task(it.run())
    assert it._channel.credentials() is not None
    lose(world.folder / "sidecar")
    async with asyncio.timeout(60):
        while it.issued < 2:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert world.serial() != first
    assert sum("asking for another" in record.message for record in caplog.records) == 1


async def test_a_folder_that_may_not_be_searched_ends_nothing(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a join token shown, which was used up."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    world.write_token()
    it = enrollment(world)
    await it.join()
    first = it._channel.credentials()
    running = asyncio.create_task(it.run())

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(certificates, "open_regular", refuse)
    monkeypatch.setattr(Path, "stat", refuse)
    async with asyncio.timeout(60):
        while not it.failed and not running.done():
            await asyncio.sleep(0.01)
    monkeypatch.undo()
    assert it._channel.credentials() == first
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize(("flags", "why"), [(0, "Permission denied: "), (os.ST_RDONLY, "Read-only file system")])
async def test_a_folder_that_cannot_be_written_costs_no_token(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, flags: int, why: str
) -> None:
    """It is mended by a restart with another volume, and the certificate would be gone."""
    world.write_token()
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda path, mode: mode != os.W_OK | os.X_OK)
        patched.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=flags))
        assert not await enrollment(world)._attempt()
    assert problems(caplog)[-1].startswith(f"{world.settings.folder} cannot be written: {why}")
    assert await enrollment(world)._attempt()
    assert world.process.metrics.issuances.labels("ok", "").value == 1


async def test_failures_leave_the_certificate_in_use(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.write_token()
    it = enrollment(world)
    await it.join()
    serial = world.serial()
    world.process.listener.stop_accepting()
    assert not await it._attempt()
    assert (it.failed, world.serial()) == (1, serial)
    assert "cannot be reached" in problems(caplog)[0]
    assert caplog.records[-1].levelno == logging.WARNING
    it._clock = lambda: time.time() + 3_500.0
    assert not await it._attempt()
    assert caplog.records[-1].levelno == logging.ERROR  # little is left


async def test_refusals(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """What the control plane answers is what the log says."""
    it = enrollment(world)
    token = Path(world.settings.join_token or "")
    token.write_text("mpj1-unknown")
    assert not await it._attempt()
    assert "the join token is not known, or was used before: make another one" in problems(caplog)[-1]
    token.write_text("")
    assert not await it._attempt()
    assert "the request shows neither a certificate nor a token" in problems(caplog)[-1]
    it._settings = msgspec.structs.replace(world.settings, join_token=None)
    assert not await it._attempt()
    assert "spec.controlPlane.joinToken" in problems(caplog)[-1]


@dataclass
class Pods:
    """A cluster that knows one token."""

    token: str = "token-1"

    async def identify(self, token: str) -> PodIdentity:
        if token != self.token:
            raise RequestRefused("token-unauthenticated", "the cluster does not know the token")
        return PodIdentity("models", "resnet", "resnet-0", "uid")


async def test_a_pod_joins_with_its_service_account_token(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """It is read at each use, as the kubelet replaces it, and is enough once the certificate has expired."""
    caplog.set_level(logging.DEBUG)
    pods = Pods()
    world.process.service._attestation = Attestation(world.process.store, "m.example", pods)
    world.process.service._lifetime = 10.0
    file = world.folder / "sa-token"
    settings = msgspec.structs.replace(world.settings, join_token=None, service_account_token=str(file))
    it = enrollment(world, settings)
    assert not await it._attempt()
    assert f"the service-account token {file} cannot be read" in problems(caplog)[-1]
    file.write_text("token-1\n")
    await it.join()
    assert own_identity(world.files().read(), "m.example", time.time()).workload.spiffe_id == ID
    # The kubelet has replaced the token while the certificate expired.
    pods.token = "token-2"
    file.write_text("token-2")
    ahead = enrollment(world, settings, clock=lambda: time.time() + 11.0)
    ahead._channel._clock = lambda: time.time() + 11.0
    serial = world.serial()
    world.process.service._lifetime = 3_600.0
    await ahead.join()
    assert world.serial() != serial
    # While it is valid, it is renewed without one.
    file.unlink()
    assert await ahead._attempt()
    assert "token-1" not in caplog.text + str([record.__dict__ for record in caplog.records])


async def test_a_token_that_its_mount_does_not_follow_is_told(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused, as it was used up, though there is another one outside."""
    world.write_token()
    monkeypatch.setattr(unreadable, "not_followed", lambda path: "replaced outside")
    await enrollment(world).join()
    assert f"{world.settings.join_token} was replaced outside" in [record.message for record in caplog.records]


async def test_another_server_is_refused(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.write_token()
    other = "spiffe://m.example/ns/meshproxy/sa/other"
    it = enrollment(world, msgspec.structs.replace(world.settings, spiffe_id=other))
    assert not await it._attempt()
    assert f"it is {CONTROL}, and the control plane is {other} (spec.controlPlane)" in problems(caplog)[-1]
    stranger = world.folder / "stranger.pem"
    stranger.write_bytes(DevelopmentCA.create("m.example").bundle_pem)
    it = enrollment(world, msgspec.structs.replace(world.settings, trust_bundle=str(stranger)))
    assert not await it._attempt()
    assert "does not verify" in problems(caplog)[-1] or "authority" in problems(caplog)[-1]
    # The token was shown to nobody.
    assert world.process.metrics.issuances.labels("refused", "join-token").value == 0


async def test_what_else_can_fail(world: World, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    world.write_token()

    async def no_key() -> NewKey:
        raise KeyFailure("no key today")

    it = enrollment(world, make_key=no_key)
    assert not await it._attempt()
    assert problems(caplog)[-1].endswith("no key today")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    it = enrollment(world)
    monkeypatch.setattr(module, "replace_or_overwrite", full)
    for _ in range(2):
        assert not await it._attempt()
        assert problems(caplog)[-1] == f"{world.settings.folder} cannot be written: No space left on device"
    monkeypatch.undo()
    # It is stored as soon as that is possible, and the join token was used once.
    assert await it._attempt()
    assert world.process.metrics.issuances.labels("ok", "").value == 1
    Path(world.settings.files.certificate).unlink()
    it = enrollment(world, msgspec.structs.replace(world.settings, trust_bundle="/nowhere"))
    world.write_token()
    assert not await it._attempt()
    assert "trust bundle /nowhere cannot be read" in problems(caplog)[-1]


async def test_a_disk_that_stays_full(world: World, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    """Each certificate is written over the one before, so none expires."""
    world.write_token()
    it = enrollment(world)
    assert await it._attempt()
    before = world.serial()
    with monkeypatch.context() as patched:

        def full(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        patched.setattr(private_files, "replace_file", full)
        assert await it._attempt()
    assert world.serial() != before
    assert stat.S_IMODE(it._channel.files.certificate.stat().st_mode) == 0o600
    assert [_fields(record) for record in caplog.records if "the disk is full" in record.getMessage()] == [
        {"folder": world.settings.folder}
    ]


@pytest.mark.parametrize("offset", [-300.0, 0.0, 300.0])
async def test_the_clock_of_this_host_is_off(world: World, offset: float, caplog: pytest.LogCaptureFixture) -> None:
    """It is told, and the certificate is renewed well before it expires to others, whose clocks are right."""
    world.write_token()
    renewals: list[float] = []
    it = enrollment(world, clock=lambda: time.time() + offset)
    it.renewed = lambda issued, expires: renewals.append(expires)
    await it.join()
    assert it.measure() == [((), pytest.approx(offset, abs=5.0))]
    warned = [_fields(record)["ahead_seconds"] for record in caplog.records if "clocks" in record.getMessage()]
    assert warned == [pytest.approx(offset, abs=5.0)] * bool(offset)
    assert renewals == [pytest.approx(time.time() + 3_600.0, abs=10.0)]
    assert it._renewal.wait(time.time() + offset, 0.0) == pytest.approx(2_400.0 - max(0.0, offset), abs=10.0)


async def test_a_clock_that_is_off_by_more_than_a_certificates_life(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.write_token()
    it = enrollment(world, clock=lambda: time.time() + 4_000.0)
    assert not await it._attempt()
    assert "cannot be used" in problems(caplog)[-1]
    assert "set them" in caplog.text
    assert it.failed == 1


async def test_a_certificate_of_an_older_trust_domain(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """What is in the folder cannot be used: it is asked for anew."""
    folder = Path(world.settings.folder)
    folder.mkdir(mode=0o700)
    issued = DevelopmentCA.create("old.example").issue("spiffe://old.example/ns/a/sa/b")
    (folder / "identity.pem").write_bytes(issued.certificate_pem + issued.key_pem)
    (folder / "roots.pem").write_bytes(DevelopmentCA.create("old.example").bundle_pem)
    (folder / "identity.pem").chmod(0o600)
    world.write_token()
    it = enrollment(world)
    await it.join()
    assert own_identity(world.files().read(), "m.example", time.time()).workload.spiffe_id == ID
