"""Where the workload's certificate, key and trust bundle come from: files now, any issuer behind the same protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from meshproxy.config.file_watch import FileWatch
from meshproxy.identity.certificates import IdentityFiles
from meshproxy.identity.trust_bundles import BundleSource, OtherBundles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from meshproxy.config.schema import TrustBundle, TrustedDomain
    from meshproxy.config.sidecars import Identity
    from meshproxy.identity.certificates import Credentials


class IdentitySource(Protocol):
    """Delivers the workload's credentials, and others before they expire."""

    async def load(self) -> Credentials:
        """The current credentials, not yet proven.

        Raises:
            CertificateError: there are none of our own, or they cannot be read. Bundles of other trust domains that
                cannot be used are `problems` of the credentials.
        """

    def start(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever `load` may return other credentials than it returned last."""

    def stop(self) -> None:
        """Stop; `changed` is not called any more."""


class FileIdentity:
    """PEM files, as cert-manager writes them into a mounted volume (`IdentitySource`).

    Args:
        files: of the own identity.
        bundles: the trust bundles of other trust domains, by domain.
    """

    def __init__(self, files: IdentityFiles, bundles: Mapping[str, BundleSource]) -> None:
        self._files = files
        self._bundles = others = OtherBundles(bundles)
        self._watch = FileWatch(lambda: (files.certificate, files.key, files.trust_bundle, *others.paths))

    async def load(self) -> Credentials:
        return self._bundles.add_to(self._files.read())

    def start(self, changed: Callable[[], None]) -> None:
        self._watch.start(changed)

    def stop(self) -> None:
        self._watch.stop()


def identity_source(identity: Identity, trust_domains: Sequence[TrustedDomain]) -> IdentitySource:
    """The source that the `identity` of a Sidecar document names, and the other `trustDomains` of the mesh."""
    bundles = {domain.name: _source(domain.bundle) for domain in trust_domains if domain.bundle is not None}
    if identity.workload_api is not None:
        from meshproxy.sidecar.workload_api import WorkloadApiIdentity  # its memory is for those who have an agent

        federated = [domain.name for domain in trust_domains if domain.bundle is None]
        return WorkloadApiIdentity(identity.workload_api, bundles, federated)
    files = identity.files
    assert files is not None  # the document has one of them
    return FileIdentity(IdentityFiles(Path(files.certificate), Path(files.key), Path(files.trust_bundle)), bundles)


def _source(bundle: TrustBundle) -> BundleSource:
    if bundle.inline is not None:
        return BundleSource.inline(bundle.inline)
    assert bundle.file is not None  # the document has one of them
    return BundleSource.file(Path(bundle.file))
