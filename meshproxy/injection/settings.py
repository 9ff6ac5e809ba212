"""What the operator of the mesh chooses for all pods."""

from __future__ import annotations

import re
from dataclasses import dataclass

from meshproxy.config import values
from meshproxy.config.certificates import read_certificates

NATIVE_SIDECARS = (1, 29)
"""The release of Kubernetes that starts init containers with `restartPolicy: Always` as sidecars."""
SYSTEM_NAMESPACES = frozenset({"kube-system", "kube-public", "kube-node-lease"})
INBOUND, OUTBOUND, ADMIN = 18500, 18501, 18502
"""Ports of an injected sidecar."""
MANY_WORKERS = 18513
"""Admin port of the first of more workers than fit between `ADMIN` and the ports of a control plane."""
USER = 65532
"""Its user id: that of the image."""

_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}")
_WHOLE = re.compile(r"[0-9]{1,9}")
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_RELEASE = re.compile(r"v?([0-9]{1,3})\.([0-9]{1,3})(?:[.+-].{0,60})?")
UNITS = {
    "": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40,
}  # fmt: skip
"""Of quantities."""
LEAST_MEMORY = 1 << 20
"""Bytes: with less the unit is missing, or is another one."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Requests and limits of a sidecar with one worker, as Kubernetes writes quantities. None: no such limit."""

    cpu_request: str = "50m"
    memory_request: str = "64Mi"
    cpu_limit: str | None = None
    memory_limit: str | None = "128Mi"


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings for all pods.

    Raises:
        ValueError: one of them cannot be used; the text says which.
    """

    image: str
    """The image of the sidecar."""
    trust_bundle: str
    """The CA certificates (PEM) that the control plane's certificate chains to."""
    control_plane: str
    """`HOST:PORT` of the control plane."""
    control_plane_id: str
    """Its SPIFFE ID."""
    namespace: str = "meshproxy"
    """Where the control plane runs: pods there get no sidecar."""
    server: str = "local"
    """The ModelServer, among the documents of the control plane, that is the one in a sidecar's own pod."""
    listen: str = "[::]"
    """The address of the sidecar's ports for others. `[::]` is IPv6 and IPv4; `0.0.0.0` where kernels have no IPv6."""
    kubernetes: tuple[int, int] = NATIVE_SIDECARS
    """The release of the cluster. Before 1.29 the sidecar is an ordinary container."""
    resources: Resources = Resources()
    log_level: str = "info"
    drain_timeout: float = 25.0
    """Seconds."""

    def __post_init__(self) -> None:
        read_image(self.image)
        values.read_endpoint_address(self.control_plane)
        values.read_spiffe_id(self.control_plane_id)
        values.read_name(self.namespace)
        values.read_name(self.server)
        read_certificates(self.trust_bundle)
        if self.listen not in ("[::]", "0.0.0.0"):
            raise ValueError(f"expected [::] or 0.0.0.0, got {values.shown(self.listen)}")

    @property
    def is_native(self) -> bool:
        """The cluster knows native sidecars."""
        return self.kubernetes >= NATIVE_SIDECARS


def read_image(text: str) -> str:
    """The reference of an image. Raises ValueError."""
    if not _IMAGE.fullmatch(text):
        raise ValueError(f"expected an image, such as registry.example.com/meshproxy:1.0, got {values.shown(text)}")
    return text


def read_whole(text: str, least: int, most: int) -> int:
    """A whole number, in digits. Raises ValueError."""
    if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
        raise ValueError(f"expected a whole number from {least} to {most}, got {values.shown(text)}")
    return int(text)


def read_cpu(text: str) -> str:
    """An amount of processor time, as Kubernetes writes it. Raises ValueError."""
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in (None, "m") or amount(text) == 0:
        raise ValueError(f'expected an amount of processor time such as "250m" or "1", got {values.shown(text)}')
    return text


def read_memory(text: str) -> str:
    """An amount of memory, as Kubernetes writes it. Raises ValueError."""
    match = _QUANTITY.fullmatch(text)
    if match is None or amount(text) < LEAST_MEMORY:
        why = ': "m" is a thousandth of a byte' if match is not None and match[2] == "m" else ""
        raise ValueError(f'expected an amount of memory such as "64Mi" or "1Gi", got {values.shown(text)}{why}')
    return text


def amount(quantity: str) -> float:
    """The number that a quantity stands for."""
    match = _QUANTITY.fullmatch(quantity)
    assert match is not None, quantity
    return float(match[1]) * UNITS[match[2] or ""]


def times(quantity: str, factor: int) -> str:
    """So many times a quantity, in its unit."""
    match = _QUANTITY.fullmatch(quantity)
    assert match is not None, quantity
    number = float(match[1]) * factor
    return (f"{number:.0f}" if number.is_integer() else f"{number:.3f}") + (match[2] or "")


def read_release(text: str) -> tuple[int, int]:
    """A release of Kubernetes: `1.37`, `v1.37.2`, or `1.37+` as some clouds write it. Raises ValueError."""
    match = _RELEASE.fullmatch(text)
    if match is None:
        raise ValueError(f'expected a release of Kubernetes, such as "1.37", got {values.shown(text)}')
    return int(match[1]), int(match[2])
