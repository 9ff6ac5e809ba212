"""Where the workload's certificate, key and trust bundle come from: files now, any issuer behind the same protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from meshproxy.identity.certificates import IdentityFiles
from meshproxy.sidecar.file_watch import FileWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.config.schema import Identity
    from meshproxy.identity.certificates import Credentials


class IdentitySource(Protocol):
    """Delivers the workload's credentials, and others before they expire."""

    async def load(self) -> Credentials:
        """The current credentials, not yet proven.

        Raises:
            CertificateError: there are none, or they cannot be read.
        """

    def start(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever `load` may return other credentials than it returned last."""

    def stop(self) -> None:
        """Stop; `changed` is not called any more."""


class FileIdentity:
    """PEM files, as cert-manager writes them into a mounted volume (`IdentitySource`)."""

    def __init__(self, files: IdentityFiles) -> None:
        self._files = files
        self._watch = FileWatch(lambda: (files.certificate, files.key, files.trust_bundle))

    async def load(self) -> Credentials:
        return self._files.read()

    def start(self, changed: Callable[[], None]) -> None:
        self._watch.start(changed)

    def stop(self) -> None:
        self._watch.stop()


def identity_source(identity: Identity) -> IdentitySource:
    """The source that the `identity` of a Sidecar document names."""
    files = identity.files
    return FileIdentity(IdentityFiles(Path(files.certificate), Path(files.key), Path(files.trust_bundle)))
