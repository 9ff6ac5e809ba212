"""What the control plane may do in a cluster: a service account, and each verb that `meshproxy control run` uses.

The documents of the mesh are objects in the control plane's namespace: whoever may write the kinds of meshproxy.dev
there decides for the whole mesh.
"""

from __future__ import annotations

from typing import Any

from meshproxy.config import crds, schema

NAME = "meshproxy-control"
"""Of the Deployment, the Service, the Lease and the ClusterRole."""
SECRET = "meshproxy-authority"  # noqa: S105
"""Holds the authority of the mesh: its certificate, key and roots."""
DIGITS = "0123456789abcdef"
RBAC = "rbac.authorization.k8s.io"
"""The group of the API."""


def rights(namespace: str, service_account: str) -> list[dict[str, Any]]:
    """The ServiceAccount, and its roles with their bindings.

    Args:
        namespace: of the control plane.
        service_account: of the control plane.
    """
    subject = {"kind": "ServiceAccount", "name": service_account, "namespace": namespace}
    here = {"name": "control", "namespace": namespace}
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": service_account, "namespace": namespace},
            # Pods of the control plane ask for the token themselves; others in this namespace get none by this account.
            "automountServiceAccountToken": False,
        },
        {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": here, "rules": namespace_rules()},
        _binding("Role", here, subject),
        {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": NAME}, "rules": cluster_rules()},
        _binding("ClusterRole", {"name": NAME}, subject),
    ]


def namespace_rules() -> list[dict[str, Any]]:
    """In its own namespace."""
    kinds = [crds.plural(kind) for kind in schema.KINDS]
    return [
        # --cluster-documents
        _rule("meshproxy.dev", kinds, ["get", "list", "watch"]),
        # The leader says in the status of each what became of it.
        _rule("meshproxy.dev", [f"{kind}/status" for kind in kinds], ["patch"]),
        # What became of a rollout.
        _rule("", ["events"], ["create"]),
        _rule("coordination.k8s.io", ["leases"], ["create"]),
        _rule("coordination.k8s.io", ["leases"], ["get", "update"], [NAME]),
        # --authority-secret. RBAC cannot tell which Secret is created.
        _rule("", ["secrets"], ["create"]),
        _rule("", ["secrets"], ["get"], [SECRET]),
        # A join token is taken from there by the control plane to which it is shown.
        _rule("", ["secrets"], ["get", "patch"], [join_tokens_name(SECRET)]),
        # What control planes with the same authority tell each other, and whoever rotates its root.
        _rule("", ["configmaps"], ["create"]),
        _rule("", ["configmaps"], ["get", "patch"], record_names(SECRET)),
    ]


def record_names(secret: str) -> list[str]:
    """The ConfigMaps beside the Secret of an authority: control planes, and certificates that are out."""
    return [control_planes_name(secret), *(certificates_name(secret, digit) for digit in DIGITS)]


def join_tokens_name(secret: str) -> str:
    """Of the Secret with the join tokens that nobody has used yet."""
    return f"{secret}-join-tokens"


def control_planes_name(secret: str) -> str:
    """Of the ConfigMap with an entry for each control plane."""
    return f"{secret}-control-planes"


def certificates_name(secret: str, digit: str) -> str:
    """Of the ConfigMap with the certificates whose digests begin with this digit."""
    return f"{secret}-certificates-{digit}"


def cluster_rules() -> list[dict[str, Any]]:
    """In all namespaces."""
    return [
        # --token-review: whether the pod of a token exists.
        _rule("authentication.k8s.io", ["tokenreviews"], ["create"]),
        _rule("", ["pods"], ["get"]),
        # Endpoints of the Services that documents name.
        _rule("discovery.k8s.io", ["endpointslices"], ["list", "watch"]),
    ]


def _rule(group: str, resources: list[str], verbs: list[str], names: list[str] | None = None) -> dict[str, Any]:
    named = {} if names is None else {"resourceNames": names}
    return {"apiGroups": [group], "resources": resources, **named, "verbs": verbs}


def _binding(kind: str, metadata: dict[str, str], subject: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": f"{kind}Binding",
        "metadata": metadata,
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": metadata["name"]},
        "subjects": [subject],
    }
