"""A made-up cluster that signs tokens of service accounts, as the API server of Kubernetes 1.37 does."""

from __future__ import annotations

import time
from typing import Any

from meshproxy.control.service_accounts import AUDIENCE, PodIdentity
from meshproxy.devtools.issuer import DevelopmentIssuer

POD = PodIdentity("models", "resnet", "resnet-0", "4c8a7d0e-0000-4000-8000-000000000001")
ISSUER = "https://kubernetes.default.svc.cluster.local"


def claims_of(pod: PodIdentity = POD, /, **claims: Any) -> dict[str, Any]:
    """The claims of a pod's token, of this moment."""
    now = int(time.time())
    return {
        "aud": [AUDIENCE],
        "exp": now + 3_600,
        "iat": now,
        "iss": ISSUER,
        "jti": "e0f6f4d4-0000-4000-8000-000000000002",
        "kubernetes.io": {
            "namespace": pod.namespace,
            "pod": {"name": pod.pod, "uid": pod.pod_uid},
            "serviceaccount": {"name": pod.service_account, "uid": "11111111-0000-4000-8000-000000000003"},
        },
        "nbf": now,
        "sub": f"system:serviceaccount:{pod.namespace}:{pod.service_account}",
        **claims,
    }


class PodTokens:
    """Signs tokens."""

    def __init__(self) -> None:
        self.issuer = DevelopmentIssuer(ISSUER)

    def token(self, pod: PodIdentity = POD, /, **claims: Any) -> str:
        return self.issuer.sign({"typ": None}, claims_of(pod, **claims))
