"""The kinds of objects that an installation makes, and the rights that this takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshproxy.config import crds, schema
from meshproxy.config.fields import API_VERSION
from meshproxy.injection.settings import NATIVE_SIDECARS
from meshproxy.installation.choices import Injection
from meshproxy.installation.rights import RBAC

if TYPE_CHECKING:
    from collections.abc import Mapping

CORE = "v1"
POLICIES = "admissionregistration.k8s.io/v1"
VERBS = ("get", "create", "patch")
"""What `kubectl apply` does, on the client's side or the server's."""


@dataclass(frozen=True, slots=True)
class Right:
    """Something that RBAC allows.

    Attributes:
        group: of the API; empty: the core.
        resource: its plural name.
        namespace: where; empty: in the whole cluster.
    """

    verb: str
    group: str
    resource: str
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """A kind of objects.

    Attributes:
        resource: the name in paths.
    """

    api_version: str
    kind: str
    resource: str
    is_namespaced: bool = False

    @property
    def group(self) -> str:
        """The group of the API; empty: the core."""
        return self.api_version.rpartition("/")[0]

    @property
    def full_name(self) -> str:
        """As kubectl names it without doubt."""
        return f"{self.resource}.{self.group}" if self.group else self.resource

    def path(self, namespace: str = "", name: str = "") -> str:
        """Where its objects are in the API, or one of them; without a namespace those of all."""
        prefix = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        where = f"/namespaces/{namespace}" if namespace and self.is_namespaced else ""
        return f"{prefix}{where}/{self.resource}" + (f"/{name}" if name else "")

    def right(self, verb: str, namespace: str) -> Right:
        """The right to do something with objects of it, in a namespace if they have one."""
        return Right(verb, self.group, self.resource, namespace if self.is_namespaced else "")


TOKEN_REVIEWS = ObjectKind("authentication.k8s.io/v1", "TokenReview", "tokenreviews")
_ALWAYS = (
    ObjectKind(CORE, "Namespace", "namespaces"),
    ObjectKind("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions"),
    ObjectKind(CORE, "ServiceAccount", "serviceaccounts", is_namespaced=True),
    ObjectKind(f"{RBAC}/v1", "Role", "roles", is_namespaced=True),
    ObjectKind(f"{RBAC}/v1", "RoleBinding", "rolebindings", is_namespaced=True),
    ObjectKind(f"{RBAC}/v1", "ClusterRole", "clusterroles"),
    ObjectKind(f"{RBAC}/v1", "ClusterRoleBinding", "clusterrolebindings"),
    ObjectKind(CORE, "Service", "services", is_namespaced=True),
    ObjectKind("apps/v1", "Deployment", "deployments", is_namespaced=True),
    ObjectKind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", is_namespaced=True),
    ObjectKind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", is_namespaced=True),
    ObjectKind("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses"),
    ObjectKind(POLICIES, "ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
    ObjectKind(POLICIES, "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
)
_OF_INJECTORS = {
    Injection.WEBHOOK: (ObjectKind(POLICIES, "MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),),
    Injection.POLICY: (
        ObjectKind(POLICIES, "MutatingAdmissionPolicy", "mutatingadmissionpolicies"),
        ObjectKind(POLICIES, "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings"),
    ),
    Injection.NONE: (),
}
_CERT_MANAGER = (ObjectKind("cert-manager.io/v1", "Certificate", "certificates", is_namespaced=True),)
EVERY = (*_ALWAYS, *(kind for kinds in _OF_INJECTORS.values() for kind in kinds), *_CERT_MANAGER)
"""Every kind that an installation may make, but documents."""
_KNOWN = {
    (kind.api_version, kind.kind): kind
    for kind in (
        *EVERY,
        *(ObjectKind(API_VERSION, each.__name__, crds.plural(each), is_namespaced=True) for each in schema.KINDS),
    )
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be installed: options of `meshproxy install`.

    Attributes:
        injection: who puts sidecars into pods.
        cert_manager: the webhook's certificate is made by cert-manager.
        namespace: of the control plane.
        listen: the address of the sidecars' ports.
        kubernetes: the release that sidecars are made for.
        capture: pods are to use traffic capture.
    """

    injection: Injection = Injection.WEBHOOK
    cert_manager: bool = False
    namespace: str = "meshproxy"
    listen: str = "[::]"
    kubernetes: tuple[int, int] = NATIVE_SIDECARS
    capture: bool = False

    @property
    def is_native(self) -> bool:
        """Sidecars are native ones."""
        return self.kubernetes >= NATIVE_SIDECARS


def kind_of(content: Mapping[str, Any]) -> ObjectKind:
    """The kind of an object that `installation` makes."""
    return _KNOWN[content["apiVersion"], content["kind"]]


def kinds(plan: Plan) -> tuple[ObjectKind, ...]:
    """The kinds that are made."""
    return _ALWAYS + _OF_INJECTORS[plan.injection] + (_CERT_MANAGER if plan.cert_manager else ())


def escalations(namespace: str) -> tuple[Right, ...]:
    """What whoever grants rights must be allowed who has not all of them: a rule of RBAC itself."""
    return tuple(
        Right(verb, RBAC, resource, where)
        for resource, where in (("clusterroles", ""), ("roles", namespace))
        for verb in ("escalate", "bind")
    )


def all_rights(plan: Plan) -> tuple[Right, ...]:
    """The rights that an installation takes."""
    return (
        *(kind.right(verb, plan.namespace) for kind in kinds(plan) for verb in VERBS),
        *escalations(plan.namespace),
    )
