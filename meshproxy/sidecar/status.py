"""The status of a sidecar on the admin port: readiness, the configuration in use, and the state of every part."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING

from meshproxy import __version__
from meshproxy.sidecar.attention import HEAD, attention, hop_lag
from meshproxy.telemetry.timestamps import timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshproxy.sidecar.clusters import Clusters
    from meshproxy.sidecar.configuration import Configuration
    from meshproxy.sidecar.direction import Direction
    from meshproxy.sidecar.rotation import IdentityRotation
    from meshproxy.sidecar.server_metrics import ServerMetrics
    from meshproxy.sidecar.tokens import Tokens
    from meshproxy.telemetry.scaling import Scaling
    from meshproxy.telemetry.sidecar_metrics import SidecarMetrics


class Status:
    """Answers for the sidecar on its admin port (`admin.AdminTarget`).

    Args:
        is_draining: whether the sidecar shuts down.
        drain: begins to shut down.
        scaling: the load of the model server; None without an inbound port.
        metrics: of the sidecar, for what only they count.
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
        scaling: Scaling | None,
        metrics: SidecarMetrics,
        server_metrics: ServerMetrics,
    ) -> None:
        self._configuration = configuration
        self._identity = identity
        self._tokens = tokens
        self._clusters = clusters
        self._directions = directions
        self._is_draining = is_draining
        self._drain = drain
        self._scaling = scaling
        self._metrics = metrics
        self._server_metrics = server_metrics
        self._started_at = time.time()

    def drain(self) -> None:
        self._drain()

    async def scaling(self) -> dict[str, object] | None:
        """What `/scaling` answers."""
        return self._scaling.page() if self._scaling is not None else None

    def calls(self) -> dict[str, object] | None:
        """What `/calls` answers."""
        return self._server_metrics.tell()

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

    def notes(self) -> list[str]:
        """What is not as it should be, although the sidecar serves (`admin.AdminTarget`)."""
        last, problem = self._configuration.last_reload, self._identity.problem
        notes = []
        if last is not None and last.problems:
            notes += [f"configuration rejected, the previous one is in use: {each}" for each in last.problems]
        if problem is not None:
            notes.append(f"certificate rejected, the previous one is in use: {problem}")
        return [*notes, *hop_lag(self._server_metrics.raised)]

    def _reload(self) -> dict[str, object]:
        """Since when the documents are in use, and how the last attempt to replace them went."""
        last = self._configuration.last_reload
        return {
            "appliedAt": timestamp(self._configuration.applied_at),
            "lastReload": None
            if last is None
            else {
                "at": timestamp(last.at),
                "result": "rejected" if last.problems else "applied",
                "problems": list(last.problems),
            },
        }

    async def status(self) -> dict[str, object]:
        """What `meshproxy status` shows."""
        documents = self._configuration.documents
        conditions = self.readiness()
        refusals = self._metrics.requests.refusals.series
        totals: Counter[str] = Counter()
        for (_, reason), series in refusals.items():
            totals[reason] += int(series.value)
        found: dict[str, object] = {
            "version": __version__,
            "pid": os.getpid(),
            "startedAt": timestamp(self._started_at),
            "state": "draining" if self._is_draining() else "ready" if all(conditions.values()) else "not ready",
            "conditions": conditions,
            "documents": {
                "fingerprint": documents.fingerprint,
                **self._reload(),
                "counts": {
                    "roles": len(documents.roles),
                    "bindings": len(documents.bindings),
                    "servers": len(documents.servers),
                    "routes": len(documents.routes),
                },
            },
            "mtls": documents.mesh.spec.mtls,
            "identity": self._shown_identity(),
            "issuers": self._tokens.overview(),
            "directions": {direction.name: direction.overview() for direction in self._directions},
            "servers": self._clusters.overview(),
            "refusals": {
                "total": {reason: count for reason, count in totals.most_common() if count},
                "last": self._metrics.requests.last_refusals.rows(time.time() - time.monotonic()),
            },
            "hopLag": {"raised": self._server_metrics.raised},
            "workers": [],
        }
        return {**HEAD, **found, "attention": attention(found, time.time())}

    def _shown_identity(self) -> dict[str, object] | None:
        identity = self._identity.current
        if identity is None:
            return None
        return {
            "spiffeId": identity.workload.spiffe_id,
            "serial": identity.serial,
            "notAfter": timestamp(identity.workload.not_after),
            "problem": self._identity.problem,
        }

    def configuration(self) -> dict[str, object]:
        """The configuration in use, without secrets."""
        documents = self._configuration.documents
        identity = self._identity.current
        addresses = {direction.name: direction.listener.address for direction in self._directions}
        return {
            "fingerprint": documents.fingerprint,
            **self._reload(),
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
