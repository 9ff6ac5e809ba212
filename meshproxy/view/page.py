"""What a control plane tells commands of the mesh: the page `/mesh` of its web port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from meshproxy.control_api import ReportedCalls
from meshproxy.telemetry.timestamps import timestamp
from meshproxy.view.graph import API_VERSION, Reports, Shape, caller_name
from meshproxy.view.reporters import ReportState

if TYPE_CHECKING:
    from meshproxy.view.mesh import Mesh

KIND = "Mesh"
MOST_REPORTERS = 1_000
"""That are not fresh, and are named."""


class ReporterEntry(Shape, kw_only=True):
    """A process whose reports are not as they should be."""

    spiffe_id: str
    sidecar: str
    host: str
    worker: int
    state: ReportState
    silent_seconds: float
    received: int
    lost: int
    late: int


class DenialEntry(Shape, kw_only=True):
    """A call that was denied."""

    at: str
    """RFC 3339, by the clock of the sidecar."""
    server: str
    """The SPIFFE id of the sidecar that has denied it."""
    caller: str
    call: str
    """Verb and model."""
    reason: str
    message: str
    binding: str


class MeshCalls(Shape, kw_only=True):
    """Calls that a sidecar has reported."""

    reporter: str
    """Its SPIFFE id."""
    calls: ReportedCalls


class MeshPage(Shape, kw_only=True):
    """The page."""

    api_version: str = API_VERSION
    kind: str = KIND
    now: str
    """RFC 3339."""
    seconds: float
    """How long the time is that `calls` are of, up to `now`."""
    reports: Reports
    reporters: list[ReporterEntry]
    """Those that are late, silent, or have lost reports; the longest silent first."""
    denials: list[DenialEntry]
    """The last ones, the newest first."""
    calls: list[MeshCalls]
    """Of all sidecars: `graph.merge_views` makes of them each call once."""


def mesh_page(mesh: Mesh, seconds: float, now: float) -> MeshPage:
    """The page.

    Args:
        mesh: what was reported.
        seconds: how long a time it is of, up to an hour.
        now: seconds since the epoch.
    """
    window = mesh.ring.window(seconds, now)
    reporters = [
        ReporterEntry(
            spiffe_id=key.spiffe_id,
            sidecar=key.sidecar,
            host=key.host,
            worker=key.worker,
            state=each.state(now),
            silent_seconds=round(now - each.heard, 3),
            received=each.received,
            lost=each.lost,
            late=each.late,
        )
        for key, each in mesh.reporters.known.items()
        if each.lost or each.state(now) in (ReportState.LATE, ReportState.SILENT)
    ]
    reporters.sort(key=lambda each: -each.silent_seconds)
    return MeshPage(
        now=timestamp(now),
        seconds=round(window.seconds, 3),
        reports=mesh.reports(now),
        reporters=reporters[:MOST_REPORTERS],
        denials=[
            DenialEntry(
                at=timestamp(denial.at),
                server=reporter,
                caller=caller_name(denial.caller),
                call=denial.call,
                reason=denial.reason,
                message=denial.message,
                binding=denial.binding,
            )
            for reporter, denial in reversed(mesh.denials)
        ],
        calls=[MeshCalls(reporter=edge.reporter, calls=tally.report(edge)) for edge, tally in window.tallies.items()],
    )


def read_mesh(page: bytes) -> MeshPage:
    """A page. Raises ValueError if it is none."""
    found = msgspec.json.decode(page, type=MeshPage)
    if found.kind != KIND:
        raise ValueError(f"it is a {found.kind}")
    return found
