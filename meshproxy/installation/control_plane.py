"""The control plane as pods of a cluster, and what protects them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshproxy import __version__
from meshproxy.config.crds import RELEASE_LABEL
from meshproxy.injection import webhook_configuration
from meshproxy.injection.settings import USER
from meshproxy.injection.sidecar import restricted
from meshproxy.installation.choices import CONTROL_PORT, MEMORY_REQUEST, Injection
from meshproxy.installation.rights import NAME, SECRET, rights

if TYPE_CHECKING:
    from meshproxy.installation.choices import Choices

REPLICAS = 2
WEB_PORT = 18512
_LABELS = {"app.kubernetes.io/name": NAME}
_FOLDER, _CERTIFICATE, _LOGIN = "/var/lib/meshproxy", "/etc/meshproxy/webhook", "/etc/meshproxy/login"
LEAVE_SECONDS = 5
"""Until clients know that a pod is about to end."""
GRACE_SECONDS = 30
API_SERVER_PORTS = (443, 6443)
"""The usual ones: of the Service, and of the servers behind it, which is what most network plugins compare."""


def control_plane(choices: Choices) -> list[dict[str, Any]]:
    """Everything that it consists of, in an order in which it can be made."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": choices.namespace,
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        },
        _priority(),
        *rights(choices.namespace, choices.service_account),
        _service(choices.namespace),
        _network_policy(choices),
        _disruption_budget(choices.namespace),
        _deployment(choices),
    ]


def _priority() -> dict[str, Any]:
    """A class of our own: clusters may keep `system-cluster-critical` for kube-system."""
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": NAME},
        "value": 1_000_000_000,
        "description": "The control plane of meshproxy: while it has no place, labelled namespaces get no pods.",
    }


def _service(namespace: str) -> dict[str, Any]:
    ports = [{"name": "control", "port": CONTROL_PORT, "targetPort": CONTROL_PORT, "protocol": "TCP"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": {"selector": _LABELS, "ports": ports},
    }


def _network_policy(choices: Choices) -> dict[str, Any]:
    """What may connect. The API server and the kubelet are no pods, so a policy cannot name them."""
    pods: list[dict[str, Any]] = [{"namespaceSelector": {}}]
    ingress: list[dict[str, Any]] = [
        # Sidecars, wherever they are, and what scrapes /metrics.
        {"from": pods, "ports": [_tcp(CONTROL_PORT), _tcp(WEB_PORT)]},
    ]
    if choices.injection is Injection.WEBHOOK:
        ingress.append({"ports": [_tcp(webhook_configuration.PORT)]})
    dns = [_tcp(53), {**_tcp(53), "protocol": "UDP"}]  # in some clusters the API server is known by its name
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": NAME, "namespace": choices.namespace},
        "spec": {
            "podSelector": {"matchLabels": _LABELS},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": [{"ports": [_tcp(port) for port in API_SERVER_PORTS]}, {"ports": dns}],
        },
    }


def _tcp(port: int) -> dict[str, Any]:
    return {"port": port, "protocol": "TCP"}


def _disruption_budget(namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": {
            "minAvailable": 1,
            "selector": {"matchLabels": _LABELS},
            # One that never gets ready keeps no node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def _deployment(choices: Choices) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": NAME,
            "namespace": choices.namespace,
            "labels": {**_LABELS, RELEASE_LABEL: __version__},
        },
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": _LABELS},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": _LABELS}, "spec": _pod(choices)},
        },
    }


def _pod(choices: Choices) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [
        # A copy of the authority's key: in memory, as the kubelet keeps Secrets.
        {"name": "state", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
    ]
    if choices.cert_manager is not None:
        volumes.append({"name": "webhook", "secret": {"secretName": webhook_configuration.NAME}})
    if choices.login_secret is not None:
        volumes.append({"name": "login", "secret": {"secretName": choices.login_secret, "defaultMode": 0o440}})
    return {
        "serviceAccountName": choices.service_account,
        "automountServiceAccountToken": True,
        "priorityClassName": NAME,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {"fsGroup": USER},
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": _LABELS},
            }
            for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
        ],
        "containers": [_container(choices)],
        "volumes": volumes,
    }


def _container(choices: Choices) -> dict[str, Any]:
    ports = {"control": CONTROL_PORT, "web": WEB_PORT}
    mounts: list[dict[str, Any]] = [{"name": "state", "mountPath": _FOLDER}]
    if choices.injection is Injection.WEBHOOK:
        ports["webhook"] = webhook_configuration.PORT
    if choices.cert_manager is not None:
        mounts.append({"name": "webhook", "mountPath": _CERTIFICATE, "readOnly": True})
    if choices.login_secret is not None:
        mounts.append({"name": "login", "mountPath": _LOGIN, "readOnly": True})
    return {
        "name": "control",
        "image": choices.image,
        "args": arguments(choices),
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "startupProbe": {**_probe("/livez"), "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": {**_probe("/readyz"), "periodSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**_probe("/livez"), "periodSeconds": 10, "failureThreshold": 3},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(LEAVE_SECONDS)]}}},
        "resources": {
            "requests": {"cpu": "50m", "memory": MEMORY_REQUEST},
            "limits": {"memory": choices.memory_limit},
        },
        "securityContext": restricted(USER),
        "volumeMounts": mounts,
    }


def _probe(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": WEB_PORT}, "timeoutSeconds": 2}


def arguments(choices: Choices) -> list[str]:
    """Of `meshproxy`, for one control plane of several in a cluster."""
    found = [
        f"--folder={_FOLDER}",
        f"--trust-domain={choices.trust_domain}",
        f"--spiffe-id={choices.identity}",
        f"--namespace={choices.namespace}",
        f"--authority-secret={SECRET}",
        "--cluster-documents",
        "--token-review",
        f"--listen={choices.listen}:{CONTROL_PORT}",
        f"--web={choices.listen}:{WEB_PORT}",
    ]
    if choices.login_secret is not None:
        found.append(f"--login={_LOGIN}/login.yaml")
    if choices.injection is Injection.WEBHOOK:
        found += [
            f"--webhook={choices.listen}:{webhook_configuration.PORT}",
            f"--webhook-name={webhook_configuration.NAME}.{choices.namespace}.svc",
        ]
        if choices.cert_manager is None:
            found.append(f"--webhook-configuration={webhook_configuration.NAME}")
        else:
            found += [f"--webhook-certificate={_CERTIFICATE}/tls.crt", f"--webhook-key={_CERTIFICATE}/tls.key"]
        found += [
            f"--sidecar-image={choices.image}",
            f"--sidecar-control-plane={choices.address}",
            f"--sidecar-server={choices.server}",
            f"--sidecar-listen={choices.listen}",
            "--kubernetes={}.{}".format(*choices.kubernetes),
        ]
    return ["control", "run", *found]
