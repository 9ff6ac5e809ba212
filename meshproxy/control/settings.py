"""What an operator chooses about a control plane."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshproxy.config.sidecars import AuditFile
from meshproxy.rollout.drift import INTERVAL

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from meshproxy.config.telemetry import WithoutTrail
    from meshproxy.config.values import Address
    from meshproxy.control.offline_tokens import ClusterKeys
    from meshproxy.control.webhook import Injector
    from meshproxy.web.login_file import LoginSettings


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of `meshproxy control run`."""

    folder: Path
    """Where the authority and join tokens are kept."""
    trust_domain: str
    spiffe_id: str
    """Its own identity."""
    listen: Address
    """The port of the sidecars."""
    web: Address
    """Health, metrics, and the page of the mesh."""
    lifetime: float = 86_400.0
    """Of certificates, in seconds."""
    trusted: Mapping[str, Path] = field(default_factory=dict)
    """Trust bundles of other trust domains, whose workloads are given documents."""
    connection_rate: float = 100.0
    """Connections a second that one address may open; 0: any number."""
    drift_interval: float = INTERVAL
    """Seconds of a reading of a model, at least (`rollout.drift`)."""
    documents: tuple[str, ...] = ()
    """Files and folders with the documents for sidecars; empty: they have their own."""
    cluster_documents: bool = False
    """Whether the objects of the cluster are the documents instead."""
    services: bool = False
    """Whether endpoints of the Services that documents name are read from the API server of the cluster."""
    kubeconfig: Path | None = None
    """How the cluster is called, if it is needed; None: as a pod in it, or by the user's own file."""
    namespace: str | None = None
    """Where its own objects are; None: where it runs."""
    authority_secret: str | None = None
    """The Secret of the cluster that keeps the authority; None: the folder does."""
    token_review: bool = False
    """Whether the API server of the cluster checks service-account tokens."""
    cluster_keys: ClusterKeys | None = None
    """What checks them otherwise; None: they are refused."""
    audit_log: str = "off"
    """Where the audit trail goes: `stdout`, `off` or a path."""
    audit: AuditFile = field(default_factory=AuditFile)
    """How it is written."""
    without_audit: WithoutTrail = "refuse"
    """What becomes of certificates and of orders to rollouts while the trail cannot be written."""
    injector: Injector | None = None
    """The webhook that puts sidecars into pods; None: there is none."""
    login: LoginSettings | None = None
    """Who may look at the page of the mesh from elsewhere; None: nobody."""
    commands: Address | None = None
    """The port of commands, where people log in at the web port; None: that one."""

    @property
    def needs_cluster(self) -> bool:
        """Whether the API server of a cluster is called."""
        keeps_webhook = self.injector is not None and self.injector.configuration is not None
        calls = (self.services, self.token_review, self.authority_secret, self.cluster_documents, keeps_webhook)
        return any(calls)
