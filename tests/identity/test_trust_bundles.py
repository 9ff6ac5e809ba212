"""Bundles of other trust domains; `test_identity_source` has them with files that change."""

from __future__ import annotations

from pathlib import Path

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.certificates import CertificateError, Credentials, read_bundle
from meshproxy.identity.trust_bundles import BundleSource, OtherBundles

OWN = DevelopmentCA.create("m.example")
THEIRS = DevelopmentCA.create("theirs.example")
CREDENTIALS = Credentials(b"", b"", OWN.bundle_pem)


def test_without_other_domains_nothing_is_read() -> None:
    assert OtherBundles({}).add_to(Credentials(b"", b"", b"not a bundle")).other_bundles == {}


def test_a_bundle_stays_until_there_is_another_good_one(tmp_path: Path) -> None:
    path = tmp_path / "theirs.pem"
    bundles = OtherBundles({"theirs.example": BundleSource.file(path)})
    missing = bundles.add_to(CREDENTIALS)
    assert missing.other_bundles == {}
    assert "its workloads are refused until " + str(path) in missing.problems[0]
    path.write_bytes(THEIRS.bundle_pem)
    good = bundles.add_to(CREDENTIALS)
    assert good.other_bundles == {"theirs.example": read_bundle(THEIRS.bundle_pem)}
    assert good.problems == ()
    path.write_bytes(b"nothing")
    bad = bundles.add_to(CREDENTIALS)
    assert bad.other_bundles == good.other_bundles
    assert "the previous one stays in use" in bad.problems[0]


def test_a_source_that_is_no_file() -> None:
    def read() -> bytes:
        raise CertificateError("unreadable", "the agent is away")

    (problem,) = OtherBundles({"theirs.example": BundleSource("the agent", read)}).add_to(CREDENTIALS).problems
    assert problem.startswith("trust domain theirs.example: the agent is away; ")
    assert problem.endswith(" until the agent is mended")
