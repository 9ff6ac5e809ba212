"""The status of a sidecar on the admin port: readiness, and the configuration in use."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshproxy.sidecar.clusters import Clusters
    from meshproxy.sidecar.configuration import Configuration
    from meshproxy.sidecar.direction import Direction
    from meshproxy.sidecar.rotation import IdentityRotation
    from meshproxy.sidecar.tokens import Tokens


class Status:
    """Answers for the sidecar on its admin port (`admin.AdminTarget`).

    Args:
        is_draining: whether the sidecar shuts down.
        drain: begins to shut down.
    """

    def __init__(
        self,
        configuration: Configuration,
        identity: IdentityRotation,
        tokens: Tokens,
        clusters: Clusters,
        directions: Sequence[Direction],
        *,
        is_draining: Callable[[], bool],
        drain: Callable[[], None],
    ) -> None:
        self._configuration = configuration
        self._identity = identity
        self._tokens = tokens
        self._clusters = clusters
        self._directions = directions
        self._is_draining = is_draining
        self._drain = drain

    def drain(self) -> None:
        self._drain()

    def readiness(self) -> dict[str, bool]:
        """Each condition for being ready, and whether it holds."""
        identity = self._identity.current
        health = self._configuration.health
        return {
            "configured": True,
            "certificate is valid": identity is None or time.time() < identity.workload.not_after,
            "a token issuer's keys are known": self._tokens.are_known,
            **self._clusters.conditions(),
            **(health.conditions() if health is not None else {}),
            "not draining": not self._is_draining(),
        }

    def configuration(self) -> dict[str, object]:
        """The configuration in use, without secrets."""
        documents = self._configuration.documents
        identity = self._identity.current
        addresses = {direction.name: direction.listener.address for direction in self._directions}
        return {
            "fingerprint": documents.fingerprint,
            "identity": identity.workload.spiffe_id if identity is not None else None,
            "trustDomain": documents.mesh.spec.trust_domain,
            "trustDomains": self._identity.trusted_domains,
            "mtls": documents.mesh.spec.mtls,
            "issuers": [issuer.name for issuer in documents.mesh.spec.issuers],
            "roles": [role.metadata.name for role in documents.roles],
            "bindings": [binding.metadata.name for binding in documents.bindings],
            "inbound": addresses.get("inbound"),
            "outbound": addresses.get("outbound"),
            "servers": self._clusters.overview(),
            "routes": {route.metadata.name: list(route.spec.directions) for route in documents.routes},
        }
