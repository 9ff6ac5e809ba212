"""The channel to the control plane; `test_enrollment` and `test_control_documents` make calls on it."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshproxy.config.sidecars import ControlPlane
from meshproxy.config.values import Address
from meshproxy.control_api import ReportReceipt
from meshproxy.devtools.ca import DevelopmentCA, IssuedCertificate
from meshproxy.identity.certificates import CertificateError
from meshproxy.sidecar.control_channel import ControlChannel, read_message
from meshproxy.transport.client import ClientError

CA = DevelopmentCA.create("m.example")


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[ControlChannel]:
    (tmp_path / "roots.pem").write_bytes(CA.bundle_pem)
    settings = ControlPlane(
        address=Address("control.example", 18510),
        spiffe_id="spiffe://m.example/ns/meshproxy/sa/control",
        trust_bundle=str(tmp_path / "roots.pem"),
        folder=str(tmp_path / "kept"),
    )
    channel = ControlChannel(settings)
    yield channel
    channel.stop()


async def test_what_uses_it_ends_together(channel: ControlChannel, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[bool] = []
    monkeypatch.setattr(channel, "stop", lambda: stopped.append(True))

    async def fails() -> None:
        raise OSError("gone")

    async def waits() -> None:
        await asyncio.Event().wait()

    waiting = asyncio.create_task(waits())
    with pytest.raises(OSError, match="gone"):
        await channel.run([waiting, asyncio.create_task(fails())])
    assert waiting.cancelled()
    assert stopped == [True]
    monkeypatch.undo()


def keep(tmp_path: Path, issued: IssuedCertificate) -> None:
    (tmp_path / "kept").mkdir(exist_ok=True)
    (tmp_path / "kept/identity.pem").write_bytes(issued.certificate_pem + issued.key_pem)
    (tmp_path / "kept/roots.pem").write_bytes(CA.bundle_pem)


async def test_it_is_of_the_trust_domain_of_its_control_plane(channel: ControlChannel) -> None:
    assert (channel.address, channel.trust_domain) == ("control.example:18510", "m.example")


async def test_a_certificate_counts_as_long_as_it_is_valid(channel: ControlChannel, tmp_path: Path) -> None:
    assert channel.credentials() is None
    issued = CA.issue("spiffe://m.example/ns/a/sa/b")
    keep(tmp_path, issued)
    credentials = channel.credentials()
    assert credentials is not None
    assert issued.certificate_pem in credentials.certificate_pem
    channel._clock = lambda: time.time() + 2 * 86_400.0
    assert channel.credentials() is None
    channel._clock = time.time
    keep(tmp_path, DevelopmentCA.create("n.example").issue("spiffe://n.example/ns/a/sa/b"))
    assert channel.credentials() == credentials  # that is in use still
    channel._read_last = None
    assert channel.credentials() is None
    (tmp_path / "kept/identity.pem").write_bytes(b"half of it")
    assert channel.credentials() is None


async def test_a_certificate_whose_folder_is_gone_is_shown_while_it_is_valid(
    channel: ControlChannel, tmp_path: Path
) -> None:
    keep(tmp_path, CA.issue("spiffe://m.example/ns/a/sa/b"))
    credentials = channel.credentials()
    assert credentials is not None
    shutil.rmtree(tmp_path / "kept")
    assert channel.credentials() == credentials
    channel._clock = lambda: time.time() + 2 * 86_400.0
    assert channel.credentials() is None


async def test_it_opens_with_a_certificate_and_without(channel: ControlChannel, tmp_path: Path) -> None:
    await channel.open().close()
    keep(tmp_path, CA.issue("spiffe://m.example/ns/a/sa/b"))
    await channel.open().close()
    (tmp_path / "roots.pem").unlink()
    with pytest.raises(CertificateError, match=r"trust bundle .*roots\.pem cannot be read"):
        channel.open()


@pytest.mark.parametrize("message", [b"", b"[]", b'{"run": 1}', b'{"x":' + b"[" * 50_000])
def test_a_message_that_cannot_be_read(message: bytes) -> None:
    with pytest.raises(ClientError, match="the receipt is not understood"):
        read_message(message, ReportReceipt, "the receipt is")


@pytest.mark.parametrize("query", ["a b", "a\\r\\nx: y", "é", "\\u007f"])
def test_an_order_for_calls_is_one_line(query: str) -> None:
    order = '{"run":"","sequence":0,"tap":{"id":"i","query":"%s","seconds":1}}'
    assert read_message((order % "model=a&rate=1").encode(), ReportReceipt, "it is").tap is not None
    with pytest.raises(ClientError):
        read_message((order % query).encode(), ReportReceipt, "it is")
