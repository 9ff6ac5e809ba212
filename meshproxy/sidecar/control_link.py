"""What a sidecar and its control plane do together: the identity with its trust bundle, and the documents if they come
from there, with the endpoints that they name, and reports of the calls."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from meshproxy.sidecar.control_channel import ControlChannel
from meshproxy.sidecar.control_documents import ControlDocuments
from meshproxy.sidecar.control_endpoints import ControlEndpoints
from meshproxy.sidecar.control_reports import ControlReports
from meshproxy.sidecar.control_rollouts import ControlRollouts
from meshproxy.sidecar.control_roots import ControlRoots
from meshproxy.sidecar.enrollment import Enrollment
from meshproxy.sidecar.identity_source import identity_source
from meshproxy.sidecar.rollouts import Rollouts
from meshproxy.sidecar.shown_identity import ShownIdentity

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from meshproxy.config.file_watch import FileWatch
    from meshproxy.config.rollouts import ModelRollout
    from meshproxy.config.schema import Documents
    from meshproxy.config.sidecars import ControlPlane, Sidecar
    from meshproxy.routing.carried_state import CarriedState
    from meshproxy.sidecar.report_queue import ReportSource
    from meshproxy.telemetry.metrics import Rows


class ControlLink:
    """The link of one sidecar, whether it is one process or several workers.

    Attributes:
        enrollment: renews the identity; None if that comes from elsewhere, and the documents alone from here.
        documents: None if they are files.
    """

    def __init__(self, paths: Sequence[str], own: Sidecar, settings: ControlPlane, watch: FileWatch) -> None:
        """Nothing is sent yet.

        Args:
            paths: of the sidecar's own document.
            own: that document.
            settings: of its control plane.
            watch: of the files of `paths`, from before they were read.
        """
        self.enrollment: Enrollment | None = None
        self._roots: ControlRoots | None = None
        self._shown: ShownIdentity | None = None
        if own.spec.identity is not None:
            self._shown = ShownIdentity(identity_source(own.spec.identity, ()))
            self._shown.changed = self._renewed
            self._channel = ControlChannel(settings, shown=self._shown)
        else:
            self._channel = ControlChannel(settings)
            self.enrollment = Enrollment(settings, self._channel)
            self._roots = ControlRoots(own.metadata.name, self._channel)
            self.enrollment.renewed = self._renewed
        self._name = own.metadata.name
        self._rollouts: ControlRollouts | None = None
        folder = self._folder = Path(settings.folder)
        self.documents: ControlDocuments | None = None
        self._streams: list[Callable[[], Coroutine[None, None, None]]] = []
        if settings.documents:
            endpoints = ControlEndpoints(folder, self._channel)
            self.documents = ControlDocuments(paths, own, folder, self._channel, endpoints, watch)
            self._streams = [self.documents.run, endpoints.run]
        self._following: list[asyncio.Task[None]] = []
        self.reports: ControlReports | None = None

    def report(self, source: ReportSource, pages: Callable[[], Mapping[int, str]]) -> None:
        """Send what a source has to report, as soon as this runs. `pages`: see `ControlReports`."""
        self.reports = ControlReports(self._channel, source, pages)

    def _renewed(self, issued: float, expires: float) -> None:
        if self._roots is not None:
            self._roots.tell()
        if self.documents is not None:
            self.documents.tell_certificate(issued, expires)

    def connected(self) -> Rows:
        """Whether a stream from the control plane is open, as a metric."""
        return [((), int(self._channel.open_calls > 0))]

    def count_reports(self) -> Rows:
        """Reports that were sent, as a metric."""
        reports = self.reports
        return [(("sent",), reports.sent), (("acknowledged",), reports.received)] if reports is not None else []

    def rollouts(self, live: CarriedState, is_loaded: Callable[[ModelRollout], bool | None]) -> Rollouts:
        """What moves the weights of rollouts, as the control plane says (`run`). `live` has their arms.
        `is_loaded`: see `Rollouts`."""
        rollouts = Rollouts(live, self._folder / "rollouts.json", is_loaded)
        self._rollouts = ControlRollouts(self._name, rollouts, self._channel)
        return rollouts

    async def join(self) -> Documents | None:
        """Return when there is a certificate, and documents to start with: None if they are files."""
        if self._shown is not None:
            self._following.append(asyncio.create_task(self._shown.run()))
            await self._shown.wait()
        if self.enrollment is not None:
            await self.enrollment.join()
        if self.documents is None:
            return None
        self._following += [asyncio.create_task(run()) for run in self._streams]
        return await self.documents.first()

    async def run(self) -> None:
        """Renew the identity, follow the trust bundle, the documents and the endpoints, and report calls, until
        cancelled."""
        parts = (self.enrollment, self._roots, self.reports, self._rollouts)
        tasks = [asyncio.create_task(each.run()) for each in parts if each is not None]
        await self._channel.run(tasks + self._following)
