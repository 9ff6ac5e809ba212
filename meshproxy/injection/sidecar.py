"""The sidecar of a pod: its container, its volumes, and its own document, which an annotation of the pod carries."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from meshproxy.config.sidecars import CONTROL_PLANE_PORTS
from meshproxy.injection.pod import SIDECAR
from meshproxy.injection.probes import ADMIN_NAME, PORT_NAME, WORKER_NAME
from meshproxy.injection.settings import ADMIN, INBOUND, MANY_WORKERS, OUTBOUND

if TYPE_CHECKING:
    from meshproxy.injection.annotations import Choices
    from meshproxy.injection.pod import Mount
    from meshproxy.injection.settings import Resources, Settings

DOCUMENT, TRUST_BUNDLE = "sidecar.meshproxy.dev/document", "sidecar.meshproxy.dev/trust-bundle"
"""Annotations that become files in the sidecar's volume. An annotation needs no right to write anything but the pod."""
AUDIENCE = "identity.meshproxy.dev"
TOKEN_SECONDS = 600
"""The least that the API server gives. The kubelet replaces it in time."""
CONFIGURATION, IDENTITY = "meshproxy", "meshproxy-identity"
"""Volumes."""
_CONFIGURATION_FOLDER, _IDENTITY_FOLDER = "/etc/meshproxy", "/var/run/meshproxy/identity"


def worker_ports(choices: Choices) -> range:
    """The admin ports of its workers, if it has several: each has metrics of its own."""
    if choices.workers == 1:
        return range(0)
    first = ADMIN + 1 if ADMIN + choices.workers < min(CONTROL_PLANE_PORTS) else MANY_WORKERS
    return range(first, first + choices.workers)


def document(name: str, settings: Settings, choices: Choices, drain: float, *, inbound: bool, outbound: bool) -> str:
    """The `Sidecar` document, as YAML.

    Args:
        name: of the sidecar.
        drain: seconds.
    """
    lines = [
        "apiVersion: meshproxy.dev/v1alpha1",
        "kind: Sidecar",
        f"metadata: {{name: {json.dumps(name)}}}",
        "spec:",
        "  controlPlane:",
        f"    address: {json.dumps(settings.control_plane)}",
        f"    spiffeId: {json.dumps(settings.control_plane_id)}",
        f"    trustBundle: {_CONFIGURATION_FOLDER}/authority.pem",
        f"    serviceAccountToken: {_CONFIGURATION_FOLDER}/token",
        f"    folder: {_IDENTITY_FOLDER}",
        "    documents: true",
    ]
    if inbound:
        lines.append(f'  inbound: {{listen: "{settings.listen}:{INBOUND}", server: {json.dumps(choices.server)}}}')
    if outbound:
        transparent = ", transparent: true" if choices.is_captured else ""
        lines.append(f'  outbound: {{listen: "127.0.0.1:{OUTBOUND}"{transparent}}}')
    ports = worker_ports(choices)
    first = f", firstWorkerPort: {ports[0]}" if ports else ""
    lines += [f'  admin: {{listen: "{settings.listen}:{ADMIN}"{first}}}', f"  drainTimeout: {round(drain, 3):g}s"]
    if choices.access_log != "stdout":
        lines.append(f"  accessLog: {json.dumps(choices.access_log)}")
    if choices.workers > 1:
        lines.append(f"  workers: {choices.workers}")
    return "\n".join(lines) + "\n"


def container(
    choices: Choices, *, native: bool, inbound: bool, user: int, socket: Mount | None, resources: bool
) -> dict[str, Any]:
    """The container. It meets the level `restricted` of the Pod Security Standards.

    Args:
        native: it is one of the init containers.
        user: to run as.
        socket: the volume in which the model server makes its socket.
        resources: whether it has requests and limits of its own.
    """
    ports = [{"name": ADMIN_NAME, "containerPort": ADMIN, "protocol": "TCP"}]
    if inbound:
        ports.insert(0, {"name": PORT_NAME, "containerPort": INBOUND, "protocol": "TCP"})
    for number, port in enumerate(worker_ports(choices)):
        ports.append({"name": f"{WORKER_NAME}{number}", "containerPort": port, "protocol": "TCP"})
    mounts: list[dict[str, Any]] = [
        {"name": CONFIGURATION, "mountPath": _CONFIGURATION_FOLDER, "readOnly": True},
        {"name": IDENTITY, "mountPath": _IDENTITY_FOLDER},
    ]
    if socket is not None:
        mounts.append({"name": socket.name, "mountPath": socket.mount_path, "readOnly": True})
        if socket.sub_path:
            mounts[-1]["subPath"] = socket.sub_path
    return {
        "name": SIDECAR,
        "image": choices.image,
        "args": ["sidecar", "--config", _CONFIGURATION_FOLDER, "--log-level", choices.log_level],
        **({"restartPolicy": "Always"} if native else {}),
        "ports": ports,
        # Not /readyz: it waits for the model server, which waits for this probe.
        "startupProbe": {
            "httpGet": {"path": "/livez", "port": ADMIN},
            "periodSeconds": 1,
            "timeoutSeconds": 1,
            "failureThreshold": 120,
        },
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": ADMIN},
            "periodSeconds": 2,
            "timeoutSeconds": 1,
            "failureThreshold": 3,
        },
        **({"resources": _resources(choices.resources)} if resources else {}),
        "securityContext": restricted(user),
        "volumeMounts": mounts,
    }


def restricted(user: int) -> dict[str, Any]:
    """The security context of a container that passes the Pod Security level `restricted`, and writes to volumes only.

    Args:
        user: its user and group.
    """
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _resources(resources: Resources) -> dict[str, dict[str, str]]:
    limits = {"cpu": resources.cpu_limit, "memory": resources.memory_limit}
    found = {"requests": {"cpu": resources.cpu_request, "memory": resources.memory_request}}
    if chosen := {name: value for name, value in limits.items() if value is not None}:
        found["limits"] = chosen
    return found


def volumes() -> list[dict[str, Any]]:
    """Its document, the trust bundle and the token of the service account; and memory for its certificate."""
    files = {"sidecar.yaml": DOCUMENT, "authority.pem": TRUST_BUNDLE}
    items = [
        {"path": path, "fieldRef": {"fieldPath": f"metadata.annotations['{name}']"}} for path, name in files.items()
    ]
    token = {"audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"}
    return [
        {
            "name": CONFIGURATION,
            "projected": {"sources": [{"downwardAPI": {"items": items}}, {"serviceAccountToken": token}]},
        },
        {"name": IDENTITY, "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
    ]
