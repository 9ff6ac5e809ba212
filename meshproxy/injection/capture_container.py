"""The init container that leads a pod's connections to its sidecar (`meshproxy capture`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshproxy.injection.capture import MAX_PORT
from meshproxy.injection.settings import read_whole

if TYPE_CHECKING:
    from meshproxy.injection.annotations import Choices
    from meshproxy.injection.pod import Container

CAPTURE = "meshproxy-capture"
_FLAGS = {"port": 8500, "rest_api_port": 8501}
"""Ports of TensorFlow Serving, and what they are where nothing is said (main.cc)."""


@dataclass(frozen=True, slots=True)
class CapturedPorts:
    """Which connections go to the sidecar."""

    inbound: tuple[int, ...]
    outbound: tuple[int, ...]


def ports_of(server: Container) -> tuple[int, ...]:
    """The ports on which a model server listens. Raises ValueError."""
    found = []
    for flag, default in _FLAGS.items():
        text = server.flag(flag)
        try:
            port = default if text is None else read_whole(text, 0, MAX_PORT)
        except ValueError:
            raise ValueError(f"container {server.name} has --{flag}={text}, which is not a port") from None
        if port:
            found.append(port)
    return tuple(found)


def capture_container(choices: Choices, ports: CapturedPorts, user: int, *, resources: bool) -> dict[str, Any]:
    """The container. It takes a right that no level of the Pod Security Standards but `privileged` gives.

    Args:
        choices: of the pod.
        ports: not none.
        user: of the sidecar.
        resources: whether it has requests and limits of its own.
    """
    args = ["capture", "apply", f"--user={user}"]
    for name, captured in (("inbound", ports.inbound), ("outbound", ports.outbound)):
        if captured:
            args.append(f"--{name}={','.join(map(str, captured))}")
    made = {
        "name": CAPTURE,
        "image": choices.image,
        "args": args,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": False,
            "runAsUser": 0,
            "runAsGroup": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if resources:
        made["resources"] = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}}
    return made
