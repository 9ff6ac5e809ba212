from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshproxy.audit.chain import read_head
from meshproxy.audit.verify import Verifier
from meshproxy.config.sidecars import AuditFile
from meshproxy.telemetry.audit_trail import open_trail
from tests.audit.trails import KEY, PUBLIC, call_body
from tests.telemetry.test_audit_collector import serving

PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_a_signed_file(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(PEM)
    trail = open_trail(str(tmp_path / "audit.log"), AuditFile(signing_key=str(tmp_path / "key.pem")), "pricing", 1)
    trail.start()
    trail.write(call_body(1))
    trail.close()
    lines = (tmp_path / "audit-1.log").read_bytes().splitlines(keepends=True)
    head = read_head(lines[0])
    assert head is not None
    assert head.writer == f"pricing@{socket.gethostname()}/1"
    verifier = Verifier([PUBLIC])
    verifier.read("audit-1.log", lines)
    verifier.finish()
    assert (len(lines), verifier.problems) == (3, [])


def test_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    trail = open_trail(str(tmp_path / "pipe"), AuditFile(), "pricing")
    trail.start()
    trail.close()
    assert os.read(reading, 1 << 16).count(b"\n") == 2
    os.close(reading)


def test_a_collector(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "none")
    with serving() as collector:
        trail = open_trail(collector.url.removesuffix("/v1/logs"), AuditFile(), "pricing", 1)
        trail.start()
        trail.write(call_body(1))
        trail.close()
    assert [record.message for record in caplog.records] == ["setting of the export of the audit trail ignored"]
    assert len(collector.bodies) == 3
    attributes = {each.key: each.value.string_value for each in collector.kept[0].resource_logs[0].resource.attributes}
    assert attributes["service.name"] == "pricing"
    assert attributes["service.instance.id"] == f"pricing@{socket.gethostname()}/1"


def test_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    trail = open_trail("stdout", AuditFile(), "pricing")
    trail.start()
    trail.close()
    assert capfd.readouterr().out.count('"kind":"st') == 2


def test_keys_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    settings = AuditFile(signing_key=str(path))
    with pytest.raises(OSError, match="No such file"):
        open_trail("stdout", settings, "pricing")
    path.write_bytes(b"text")
    with pytest.raises(OSError, match="not a private key without a password"):
        open_trail("stdout", settings, "pricing")
    path.write_bytes(generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(OSError, match="not a key of Ed25519"):
        open_trail("stdout", settings, "pricing")
