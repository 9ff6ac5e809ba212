"""What an operator chooses about the installation in a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from meshproxy.config import values
from meshproxy.injection import settings

CONTROL_PORT = 18510
"""Of the control plane, for sidecars."""
MEMORY_REQUEST = "64Mi"
"""Of the control plane."""
SERVICE_ACCOUNT = "control"
"""Of the control plane, unless another one is chosen."""


class Injection(Enum):
    """Who puts sidecars into pods."""

    WEBHOOK = "webhook"
    """The control plane, which the API server asks."""
    POLICY = "policy"
    """The API server itself."""
    NONE = "none"
    """Nobody, or `meshproxy inject`."""


def service_address(namespace: str) -> str:
    """`HOST:PORT` of the control plane's Service."""
    return f"meshproxy-control.{namespace}.svc:{CONTROL_PORT}"


def account_identity(trust_domain: str, namespace: str, service_account: str = SERVICE_ACCOUNT) -> str:
    """The SPIFFE ID of a control plane with this service account."""
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"


@dataclass(frozen=True, slots=True)
class CertManager:
    """An issuer of cert-manager, for the webhook's certificate."""

    kind: str
    """`Issuer` or `ClusterIssuer`."""
    name: str


@dataclass(frozen=True, slots=True)
class Choices:
    """The choices.

    Raises:
        ValueError: one of them cannot be used; the text says which.
    """

    image: str
    """Of the control plane, and of the sidecars."""
    trust_domain: str
    injection: Injection = Injection.WEBHOOK
    trust_bundle: str | None = None
    """The CA certificates (PEM) of the control plane, for `Injection.POLICY`: the webhook knows them."""
    cert_manager: CertManager | None = None
    """None: the control plane makes the webhook's certificate."""
    namespace: str = "meshproxy"
    service_account: str = SERVICE_ACCOUNT
    control_plane: str | None = None
    """`HOST:PORT`, as sidecars call it; None: its Service."""
    control_plane_id: str | None = None
    """Its SPIFFE ID; None: that of its service account."""
    login_secret: str | None = None
    """The Secret that has the login file of the page as `login.yaml`, and what that names; None: there is no login."""
    memory_limit: str = "256Mi"
    """Of each control plane, as Kubernetes writes it: 49 KB a sidecar, and what it takes without any."""
    server: str = "local"
    """`injection.settings.Settings.server`."""
    listen: str = "[::]"
    """The address of all ports for others, as `injection.settings.Settings.listen`."""
    kubernetes: tuple[int, int] = settings.NATIVE_SIDECARS

    def __post_init__(self) -> None:
        settings.read_image(self.image)
        values.read_trust_domain(self.trust_domain)
        for name in (self.namespace, self.service_account, self.server):
            values.read_name(name)
        if self.login_secret is not None:
            values.read_name(self.login_secret)
        if settings.amount(settings.read_memory(self.memory_limit)) < settings.amount(MEMORY_REQUEST):
            raise ValueError(f"the memory limit {self.memory_limit} is below what is requested, {MEMORY_REQUEST}")
        values.read_endpoint_address(self.address)
        if not values.read_spiffe_id(self.identity).startswith(f"spiffe://{self.trust_domain}/"):
            raise ValueError(f"{self.identity} is not in the trust domain {self.trust_domain}")
        if self.injection is Injection.POLICY:
            self.sidecars()
        if self.cert_manager is not None and self.injection is not Injection.WEBHOOK:
            raise ValueError("there is no certificate for cert-manager to make without the webhook")

    @property
    def address(self) -> str:
        """`HOST:PORT` of the control plane, as sidecars call it."""
        return self.control_plane or service_address(self.namespace)

    @property
    def identity(self) -> str:
        """The SPIFFE ID of the control plane."""
        return self.control_plane_id or account_identity(self.trust_domain, self.namespace, self.service_account)

    def sidecars(self) -> settings.Settings:
        """The settings of the sidecars that a policy adds. Raises ValueError."""
        if self.trust_bundle is None:
            raise ValueError("a policy holds the trust bundle of the sidecars that it adds: name the file")
        chosen = settings.Settings(
            image=self.image,
            trust_bundle=self.trust_bundle,
            control_plane=self.address,
            control_plane_id=self.identity,
            namespace=self.namespace,
            server=self.server,
            listen=self.listen,
            kubernetes=self.kubernetes,
        )
        if not chosen.is_native:
            raise ValueError("a policy takes native sidecars, and Kubernetes 1.36 or newer")
        return chosen
