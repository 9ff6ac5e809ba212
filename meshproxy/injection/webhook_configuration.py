"""The objects by which the API server asks the injector about new pods."""

from __future__ import annotations

from typing import Any

from meshproxy.injection.inject import LABEL
from meshproxy.injection.settings import SYSTEM_NAMESPACES

NAME = "meshproxy-injector"
PORT = 18511
TIMEOUT_SECONDS = 5
"""A pod waits for as long when the injector is gone."""


def outside_of(namespace: str) -> dict[str, Any]:
    """For a `namespaceSelector`: neither the control plane's own namespace nor those of Kubernetes. Their pods would
    wait for a control plane that waits for them."""
    names = [*sorted(SYSTEM_NAMESPACES), namespace]
    return {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": names}


def selectors(namespace: str) -> dict[str, dict[str, Any]]:
    """Which pods get sidecars: those of namespaces with the label, and those that have it themselves.

    Args:
        namespace: of the control plane.
    """

    def label(operator: str, value: str) -> dict[str, Any]:
        return {"key": LABEL, "operator": operator, "values": [value]}

    outside = outside_of(namespace)
    return {
        "namespace": {
            "namespaceSelector": {"matchExpressions": [label("In", "enabled"), outside]},
            "objectSelector": {"matchExpressions": [label("NotIn", "disabled")]},
        },
        "pod": {
            "namespaceSelector": {"matchExpressions": [label("NotIn", "enabled"), outside]},
            "objectSelector": {"matchExpressions": [label("In", "enabled")]},
        },
    }


def webhook_configuration(client: dict[str, Any], namespace: str) -> dict[str, Any]:
    """The MutatingWebhookConfiguration.

    Args:
        client: how the injector is called: `url` or `service`. The control plane or cert-manager writes the `caBundle`.
        namespace: of the control plane.
    """
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": NAME},
        "webhooks": [
            {
                "name": f"{which}.inject.meshproxy.dev",
                "clientConfig": {**client},
                "rules": [{**rule, "scope": "Namespaced"}],
                **selector,
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "timeoutSeconds": TIMEOUT_SECONDS,
                # A pod without its sidecar would serve everybody in plain text.
                "failurePolicy": "Fail",
                # A webhook that comes later may add what the sidecar is to agree with; twice is the same as once.
                "reinvocationPolicy": "IfNeeded",
            }
            for which, selector in selectors(namespace).items()
        ],
    }


def certified_objects(namespace: str, issuer: str, kind: str) -> list[dict[str, Any]]:
    """What the injector needs where cert-manager issues its certificate and writes the `caBundle`.

    Args:
        namespace: of the control plane.
        issuer: of cert-manager.
        kind: of the issuer: `Issuer` or `ClusterIssuer`.
    """
    configuration = webhook_configuration(_client(namespace), namespace)
    configuration["metadata"]["annotations"] = {"cert-manager.io/inject-ca-from": f"{namespace}/{NAME}"}
    certificate = {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": {
            "secretName": NAME,
            "dnsNames": [f"{NAME}.{namespace}.svc"],
            "issuerRef": {"group": "cert-manager.io", "kind": kind, "name": issuer},
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
            "usages": ["digital signature", "server auth"],
        },
    }
    return [_service(namespace), certificate, configuration]


def webhook_objects(namespace: str, service_account: str) -> list[dict[str, Any]]:
    """What the injector needs in the cluster: its Service, the configuration, and the right to keep its `caBundle`.

    Args:
        namespace: of the control plane.
        service_account: of the control plane.
    """
    metadata = {"name": f"{NAME}-configuration"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": metadata["name"]}
    return [
        _service(namespace),
        webhook_configuration(_client(namespace), namespace),
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": metadata,
            "rules": [
                {
                    "apiGroups": ["admissionregistration.k8s.io"],
                    "resources": ["mutatingwebhookconfigurations"],
                    "resourceNames": [NAME],
                    "verbs": ["get", "patch"],
                }
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", "name": service_account, "namespace": namespace}],
        },
    ]


def _client(namespace: str) -> dict[str, Any]:
    return {"service": {"namespace": namespace, "name": NAME, "port": 443, "path": "/inject"}}


def _service(namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": {
            "selector": {"app.kubernetes.io/name": "meshproxy-control"},
            "ports": [{"name": "webhook", "port": 443, "targetPort": PORT, "protocol": "TCP"}],
        },
    }
