"""Endpoints of a Kubernetes Service (`discovery.Discovery`), from the file in which the link to the control plane keeps
what it was sent last. A restart reads the same file, and so does each of several workers.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import msgspec

from meshproxy.config.file_watch import FileWatch
from meshproxy.config.values import shown
from meshproxy.control_api import ServiceEndpoints
from meshproxy.upstream.discovery import (
    MOST_ENDPOINTS,
    EndpointAddress,
    LastGoodEndpoints,
    OnEndpoints,
    OnFailure,
    address,
    is_usable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from meshproxy.config import servers

FOLDER = "endpoints"
"""Below the folder of the control plane."""
PERIOD = 0.1
"""Seconds between two looks at the file."""


def endpoint_file(folder: Path, service: str) -> Path:
    """Where the endpoints of a Service (`NAMESPACE/NAME`, both without dots) are kept: nowhere else, whatever the text.
    `folder`: `controlPlane.folder` of the Sidecar."""
    return folder / FOLDER / f"{service.replace('/', '.')}.json"


def read_kept(path: Path) -> ServiceEndpoints | None:
    """What is kept in a file; None without one.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=ServiceEndpoints)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


class ServiceDiscovery:
    """The endpoints of one Service.

    Args:
        settings: which Service, and which of its ports.
        folder: `controlPlane.folder` of the Sidecar.
        on_failure: receives why endpoints are not known, or what is wrong with some.
    """

    def __init__(self, settings: servers.Service, folder: Path, on_failure: OnFailure) -> None:
        self._settings = settings
        self._path = endpoint_file(folder, settings.key)
        self._on_failure = on_failure
        self._watch = FileWatch(lambda: [self._path], PERIOD)

    def start(self, on_endpoints: OnEndpoints) -> None:
        """Report what is kept, and again whenever it changes."""
        last = LastGoodEndpoints(on_endpoints, self._on_failure)
        self._watch.mark()
        self._watch.start(lambda: self._read(last))
        self._read(last)

    async def close(self) -> None:
        self._watch.stop()

    def _read(self, last: LastGoodEndpoints) -> None:
        try:
            kept = read_kept(self._path)
            found = endpoints_of(kept, self._settings) if kept is not None and kept.version else None
        except ValueError as error:
            last.fail(f"Service {self._settings.key}: {error}")
            self._watch.again()
            return
        if found is not None:
            last.take(found)
        if kept is not None and kept.problem:
            last.fail(kept.problem)


def endpoints_of(kept: ServiceEndpoints, settings: servers.Service) -> tuple[EndpointAddress, ...]:
    """The endpoints that have a port that the settings name.

    Raises:
        ValueError: there are endpoints, and none has such a port; or an address or a port is none.
    """
    names = {"rest": settings.rest, "grpc": settings.grpc, "sidecar": settings.sidecar}
    found: dict[EndpointAddress, None] = {}
    for each in kept.endpoints[:MOST_ENDPOINTS]:
        host = ipaddress.ip_address(each.address)
        if not is_usable(host) or not all(0 < port < 65_536 for port in each.ports.values()):
            raise ValueError(f"nothing can be reached at {each.address}, ports {_listed(each.ports.values())}")
        surfaces = {
            surface: address(host, each.ports[name])
            for surface, name in names.items()
            if name is not None and name in each.ports
        }
        if surfaces:
            found[EndpointAddress(**surfaces, locality=each.zone)] = None
    if kept.endpoints and not found:
        wanted = [name for name in names.values() if name is not None]
        there = sorted({name for each in kept.endpoints for name in each.ports})
        raise ValueError(f"no endpoint has a port named {_listed(wanted)}; there are {_listed(there)}")
    return tuple(found)


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(shown, items))
