"""Credentials from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.config import schema
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.certificates import CertificateError
from meshproxy.sidecar.identity_source import FileIdentity, IdentitySource, identity_source

CA = DevelopmentCA.create("dev.example")
ID = "spiffe://dev.example/ns/a/sa/b"


@pytest.fixture
def source(tmp_path: Path) -> IdentitySource:
    certificate, key = CA.issue(ID).write(tmp_path, "own")
    bundle = CA.write(tmp_path)
    files = schema.IdentityFiles(certificate=str(certificate), key=str(key), trust_bundle=str(bundle))
    return identity_source(schema.Identity(files=files))


async def test_the_files_are_read_as_they_are(source: IdentitySource, tmp_path: Path) -> None:
    credentials = await source.load()
    assert credentials.certificate_pem == (tmp_path / "own.pem").read_bytes()
    assert credentials.bundle_pem == CA.bundle_pem
    (tmp_path / "own-key.pem").unlink()
    with pytest.raises(CertificateError, match=r"own-key\.pem cannot be read"):
        await source.load()


@pytest.mark.parametrize("name", ["own.pem", "own-key.pem", "ca.pem"])
async def test_each_of_them_is_watched(source: IdentitySource, tmp_path: Path, name: str) -> None:
    assert isinstance(source, FileIdentity)
    changes: list[str] = []
    source.start(lambda: changes.append(name))
    source._watch._look()
    assert changes == []
    (tmp_path / name).write_bytes(b"")
    await source.load()
    source._watch._look()
    assert changes == [name]  # although it was loaded: a reload that was rejected may have done so
    source.stop()
