"""Where the workload's certificate, key and trust bundle come from: files now, any issuer behind the same protocol."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from meshproxy.identity.certificates import CertificateError, IdentityFiles, read_bundle, read_file
from meshproxy.identity.trust import check_distinct
from meshproxy.sidecar.file_watch import FileWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from meshproxy.config.schema import Identity, TrustedDomain
    from meshproxy.identity.certificates import Credentials
    from meshproxy.identity.trust import Bundle


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

    def __init__(self, files: IdentityFiles, bundles: Mapping[str, Path]) -> None:
        self._files = files
        self._bundles = bundles
        self._good: dict[str, Bundle] = {}
        """The bundles that were last found usable."""
        self._watch = FileWatch(lambda: (files.certificate, files.key, files.trust_bundle, *bundles.values()))

    async def load(self) -> Credentials:
        credentials = self._files.read()
        if not self._bundles:
            return credentials
        own = read_bundle(credentials.bundle_pem)
        problems = []
        for domain, path in self._bundles.items():
            others = [bundle for name, bundle in self._good.items() if name != domain]
            try:
                bundle = read_bundle(read_file(path, "trust bundle")[0])
                check_distinct(bundle, [own, *others])
            except (CertificateError, ValueError) as error:
                stays = "the previous one stays in use" if domain in self._good else "its workloads are refused"
                problems.append(f"trust domain {domain}: {error}; {stays} until {path} is mended")
            else:
                self._good[domain] = bundle
        return replace(credentials, other_bundles=dict(self._good), problems=tuple(problems))

    def start(self, changed: Callable[[], None]) -> None:
        self._watch.start(changed)

    def stop(self) -> None:
        self._watch.stop()


def identity_source(identity: Identity, trust_domains: Sequence[TrustedDomain]) -> IdentitySource:
    """The source that the `identity` of a Sidecar document names, and the other `trustDomains` of the mesh."""
    files = identity.files
    return FileIdentity(
        IdentityFiles(Path(files.certificate), Path(files.key), Path(files.trust_bundle)),
        {domain.name: Path(domain.bundle.file) for domain in trust_domains},
    )
