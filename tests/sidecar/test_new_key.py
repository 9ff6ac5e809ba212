"""Keys that a child process makes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from meshproxy.control.authority import SigningRequest
from meshproxy.sidecar import new_key as module
from meshproxy.sidecar.new_key import KeyFailure, make_key, new_key


async def test_a_key_and_its_request() -> None:
    made = await new_key()
    key = serialization.load_pem_private_key(made.key_pem, None)
    request = SigningRequest.read(made.csr)
    assert request.public_key == key.public_key()
    assert request.spiffe_ids == ()
    assert x509.load_der_x509_csr(made.csr).subject == x509.Name([])
    assert made.key_pem.decode() not in repr(made)


async def test_each_is_another_one() -> None:
    assert make_key().key_pem != make_key().key_pem


async def test_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(KeyFailure, match="cannot be started"):
        await new_key()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(KeyFailure, match="exited with status 1"):
        await new_key()
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(KeyFailure, match="unreadable"):
        await new_key()


async def test_a_child_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hanging = tmp_path / "python"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hanging))
    monkeypatch.setattr(module, "SECONDS", 0.2)
    with pytest.raises(KeyFailure, match="took longer than"):
        await new_key()
