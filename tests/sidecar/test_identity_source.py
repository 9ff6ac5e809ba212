"""Credentials from files."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from meshproxy.config import schema, sidecars
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.certificates import CertificateError, read_bundle
from meshproxy.sidecar.identity_source import FileIdentity, IdentitySource, identity_source
from meshproxy.sidecar.workload_api import WorkloadApiIdentity
from tests.identity.lookalikes import lookalike

CA = DevelopmentCA.create("dev.example")
ID = "spiffe://dev.example/ns/a/sa/b"


@pytest.fixture
def source(tmp_path: Path) -> IdentitySource:
    certificate, key = CA.issue(ID).write(tmp_path, "own")
    bundle = CA.write(tmp_path)
    files = sidecars.IdentityFiles(certificate=str(certificate), key=str(key), trust_bundle=str(bundle))
    return identity_source(sidecars.Identity(files=files), ())


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


async def test_an_agent_is_another_source(tmp_path: Path) -> None:
    agent = sidecars.WorkloadApi(socket=str(tmp_path / "agent.sock"))
    assert isinstance(identity_source(sidecars.Identity(workload_api=agent), ()), WorkloadApiIdentity)


class TestOtherTrustDomains:
    THEIRS = DevelopmentCA.create("theirs.example")
    OTHERS = DevelopmentCA.create("others.example")

    @pytest.fixture
    def source(self, tmp_path: Path) -> IdentitySource:
        certificate, key = CA.issue(ID).write(tmp_path, "own")
        files = sidecars.IdentityFiles(certificate=str(certificate), key=str(key), trust_bundle=str(CA.write(tmp_path)))
        (tmp_path / "theirs.pem").write_bytes(self.THEIRS.bundle_pem)
        (tmp_path / "others.pem").write_bytes(self.OTHERS.bundle_pem)
        domains = [
            schema.TrustedDomain(f"{name}.example", schema.TrustBundle(str(tmp_path / f"{name}.pem")))
            for name in ("theirs", "others")
        ]
        return identity_source(sidecars.Identity(files=files), domains)

    async def test_a_bundle_that_the_documents_have(self, tmp_path: Path) -> None:
        certificate, key = CA.issue(ID).write(tmp_path, "own")
        files = sidecars.IdentityFiles(certificate=str(certificate), key=str(key), trust_bundle=str(CA.write(tmp_path)))
        bundle = schema.TrustBundle(inline=self.THEIRS.bundle_pem.decode())
        source = identity_source(sidecars.Identity(files=files), [schema.TrustedDomain("theirs.example", bundle)])
        credentials = await source.load()
        assert credentials.problems == ()
        assert credentials.other_bundles == {"theirs.example": read_bundle(self.THEIRS.bundle_pem)}
        source.start(lambda: None)  # watches the files of our own only
        source.stop()

    async def test_each_has_its_own_authorities(self, source: IdentitySource) -> None:
        credentials = await source.load()
        assert credentials.problems == ()
        assert credentials.other_bundles == {
            "theirs.example": read_bundle(self.THEIRS.bundle_pem),
            "others.example": read_bundle(self.OTHERS.bundle_pem),
        }

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"", "the trust bundle cannot be read"),
            (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 1 is not valid PEM"),
            (CA.issue(ID).certificate_pem, "not a CA's"),
            (None, "No such file or directory"),
        ],
        ids=["empty", "broken", "a leaf", "absent"],
    )
    async def test_one_that_cannot_be_used_stops_nobody_else(
        self, source: IdentitySource, tmp_path: Path, content: bytes | None, problem: str
    ) -> None:
        path = tmp_path / "theirs.pem"
        path.unlink() if content is None else path.write_bytes(content)
        credentials = await source.load()
        assert list(credentials.other_bundles) == ["others.example"]
        (found,) = credentials.problems
        assert found.startswith("trust domain theirs.example: ")
        assert problem in found
        assert found.endswith(f"its workloads are refused until {path} is mended")

        path.write_bytes(self.THEIRS.bundle_pem)
        mended = await source.load()
        assert (mended.problems, mended.fingerprint != credentials.fingerprint) == ((), True)
        path.write_bytes(b"")
        broken = await source.load()
        assert broken.other_bundles == mended.other_bundles
        assert broken.fingerprint == mended.fingerprint
        assert "the previous one stays in use" in broken.problems[0]

    async def test_an_authority_cannot_stand_in_front_of_that_of_another_domain(
        self, source: IdentitySource, tmp_path: Path
    ) -> None:
        """One with the key identifier of another domain's, and another key."""
        before = await source.load()
        for victim in (CA, self.OTHERS):
            (tmp_path / "theirs.pem").write_bytes(imitation(victim))
            after = await source.load()
            assert "must be in both bundles" in after.problems[0]
            assert after.other_bundles == before.other_bundles

    @pytest.mark.parametrize("name", ["theirs.pem", "others.pem"])
    async def test_they_are_watched(self, source: IdentitySource, tmp_path: Path, name: str) -> None:
        assert isinstance(source, FileIdentity)
        changes: list[str] = []
        source.start(lambda: changes.append(name))
        (tmp_path / name).write_bytes(b"")
        source._watch._look()
        assert changes == [name]
        source.stop()


def imitation(authority: DevelopmentCA) -> bytes:
    """An authority that OpenSSL takes for `authority`, PEM."""
    identifier = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return lookalike(authority, identifier.digest).public_bytes(serialization.Encoding.PEM)
