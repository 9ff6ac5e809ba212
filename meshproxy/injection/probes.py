"""Probes of the application that would break beside a sidecar, and what takes their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from meshproxy.injection.settings import ADMIN, INBOUND

if TYPE_CHECKING:
    from meshproxy.injection.pod import Container

PORT_NAME, ADMIN_NAME = "mesh", "mesh-admin"
"""Of the sidecar's ports, for Services and scrapers."""
WORKER_NAME = "mesh-worker-"
"""Of the admin port of each of several workers, before its number."""
_HANDLERS = ("httpGet", "tcpSocket", "grpc")
_PATHS = {"readinessProbe": "/readyz", "livenessProbe": "/livez", "startupProbe": "/livez"}


def rewritten_probes(container: Container, *, to_sidecar: bool) -> dict[str, dict[str, Any]]:
    """The probes of a container that have to change, by the name of the field.

    A probe that names the sidecar's ports breaks: the kubelet looks for the name in the probe's own container, and on
    the port of requests it has no certificate. It gets the admin port by its number.

    Args:
        to_sidecar: send probes over the network to the sidecar as well, because the container's own ports are closed to
            the kubelet.
    """
    probes = {
        "readinessProbe": container.readiness_probe,
        "livenessProbe": container.liveness_probe,
        "startupProbe": container.startup_probe,
    }
    changed = {}
    for name, probe in probes.items():
        handler = next((each for each in _HANDLERS if each in (probe or ())), None)
        if probe is None or handler is None:
            continue
        target = probe[handler] if isinstance(probe[handler], Mapping) else {}
        port = target.get("port")
        if port in (ADMIN, ADMIN_NAME) and handler == "httpGet" and target.get("scheme", "HTTP") == "HTTP":
            new: dict[str, Any] = {**target, "port": ADMIN}
        elif to_sidecar or port in (INBOUND, PORT_NAME, ADMIN, ADMIN_NAME):
            new = {"path": _PATHS[name], "port": ADMIN}
        else:
            continue
        rest = {key: value for key, value in probe.items() if key != handler}
        if (result := {"httpGet": new, **rest}) != probe:
            changed[name] = result
    return changed
