"""What a sidecar and its control plane do together: the identity with its trust bundle, and the documents if they come
from there, with the endpoints that they name."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from meshproxy.sidecar.control_channel import ControlChannel
from meshproxy.sidecar.control_documents import ControlDocuments
from meshproxy.sidecar.control_endpoints import ControlEndpoints
from meshproxy.sidecar.control_roots import ControlRoots
from meshproxy.sidecar.enrollment import Enrollment

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from meshproxy.config.schema import Documents
    from meshproxy.config.sidecars import ControlPlane, Sidecar


class ControlLink:
    """The link of one sidecar, whether it is one process or several workers.

    Attributes:
        enrollment: renews the identity.
        documents: None if they are files.
    """

    def __init__(self, paths: Sequence[str], own: Sidecar, settings: ControlPlane) -> None:
        """Nothing is sent yet.

        Args:
            paths: of the sidecar's own document.
            own: that document.
            settings: of its control plane.
        """
        self._channel = ControlChannel(settings)
        self.enrollment = Enrollment(settings, self._channel)
        self._roots = ControlRoots(own.metadata.name, self._channel)
        self.enrollment.renewed = self._renewed
        folder = Path(settings.folder)
        self.documents: ControlDocuments | None = None
        self._streams: list[Callable[[], Coroutine[None, None, None]]] = []
        if settings.documents:
            endpoints = ControlEndpoints(folder, self._channel)
            self.documents = ControlDocuments(paths, own, folder, self._channel, endpoints)
            self._streams = [self.documents.run, endpoints.run]
        self._following: list[asyncio.Task[None]] = []

    def _renewed(self, issued: float, expires: float) -> None:
        self._roots.tell()
        if self.documents is not None:
            self.documents.tell_certificate(issued, expires)

    async def join(self) -> Documents | None:
        """Return when there is a certificate, and documents to start with: None if they are files."""
        await self.enrollment.join()
        if self.documents is None:
            return None
        self._following = [asyncio.create_task(run()) for run in self._streams]
        return await self.documents.first()

    async def run(self) -> None:
        """Renew the identity, follow the trust bundle, the documents and the endpoints until cancelled."""
        tasks = [asyncio.create_task(run()) for run in (self.enrollment.run, self._roots.run)] + self._following
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._channel.stop()
