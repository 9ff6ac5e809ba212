"""The trust bundles of other trust domains: read anew whenever their sources change, and used if they are good."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from meshproxy.identity.certificates import CertificateError, read_bundle, read_file
from meshproxy.identity.trust import check_distinct

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from meshproxy.identity.certificates import Credentials
    from meshproxy.identity.trust import Bundle


class BundleSource(msgspec.Struct, frozen=True):
    """Where the trust bundle of another trust domain is."""

    name: str
    """For messages."""
    read: Callable[[], bytes]
    """Its PEM. Raises CertificateError."""
    path: Path | None = None
    """What to watch, if it is a file."""

    @classmethod
    def file(cls, path: Path) -> BundleSource:
        return cls(str(path), lambda: read_file(path, "trust bundle")[0], path)

    @classmethod
    def inline(cls, pem: str) -> BundleSource:
        return cls("the MeshConfig", lambda: pem.encode())


class OtherBundles:
    """The trust bundles of other trust domains, by domain: each stays in use until there is another good one."""

    def __init__(self, sources: Mapping[str, BundleSource]) -> None:
        self._sources = sources
        self._good: dict[str, Bundle] = {}
        """The bundles that were last found usable."""

    @property
    def paths(self) -> list[Path]:
        """Those of the sources that are files."""
        return [source.path for source in self._sources.values() if source.path is not None]

    def add_to(self, credentials: Credentials) -> Credentials:
        """The credentials with the bundles that are in use, and with what is wrong with newer ones."""
        if not self._sources:
            return credentials
        own = read_bundle(credentials.bundle_pem)
        problems = []
        for domain, source in self._sources.items():
            others = [bundle for name, bundle in self._good.items() if name != domain]
            try:
                bundle = read_bundle(source.read())
                check_distinct(bundle, [own, *others])
            except (CertificateError, ValueError) as error:
                stays = "the previous one stays in use" if domain in self._good else "its workloads are refused"
                problems.append(f"trust domain {domain}: {error}; {stays} until {source.name} is mended")
            else:
                self._good[domain] = bundle
        return replace(credentials, other_bundles=dict(self._good), problems=tuple(problems))
