"""Which pod shows a service-account token: projected by the kubelet, for our audience, and bound to the pod.

Pure decisions, about what others have said: a cluster whose API server has reviewed the token (`token_review.py`), or
claims whose signature fits a key of the cluster (`offline_tokens.py`). Before either is asked, `read_claims` refuses
what cannot be good whoever signed it, which costs no call.

Kubernetes, "Managing Service Accounts": bound tokens; `authentication.k8s.io/v1` TokenReview.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from meshproxy.control.authority import RequestRefused
from meshproxy.identity.jose import decode_base64url, load_object
from meshproxy.identity.tokens import TOKEN_BYTES

AUDIENCE = "identity.meshproxy.dev"
"""Of the tokens that are taken. A token of another audience is for another service, which could replay it here."""
LEEWAY = 60.0
"""Seconds that the clocks of the cluster and this host may differ."""

REASONS = frozenset(
    {"token-malformed", "token-audience", "token-expired", "token-not-bound", "token-unauthenticated", "token-pod"}
)
"""Why a token is refused, as metric labels."""

_USERNAME = re.compile(r"system:serviceaccount:([a-z0-9]([-a-z0-9]*[a-z0-9])?):([a-z0-9]([-.a-z0-9]*[a-z0-9])?)")
# "The names of Kubernetes": at most 253 characters, RFC 1123.
_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")
_NAME_CHARACTERS = 253
_UID_CHARACTERS = 128
_POD_NAME, _POD_UID = "authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"
_FINISHED = frozenset({"Succeeded", "Failed"})

_PROJECT = (
    f"project a token with audience {AUDIENCE} into the pod (volumes.projected.sources.serviceAccountToken) and name"
    " its file in spec.controlPlane.serviceAccountToken"
)


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """A pod, and the service account that it runs as."""

    namespace: str
    service_account: str
    pod: str
    pod_uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod} {self.pod_uid}"

    def spiffe_id(self, trust_domain: str) -> str:
        """The identity of its workload."""
        return f"spiffe://{trust_domain}/ns/{self.namespace}/sa/{self.service_account}"


def read_claims(token: str) -> Mapping[str, object]:
    """The claims of a token whose signature nobody has checked: for refusals only.

    Raises:
        RequestRefused: `token-malformed`, `token-audience`, `token-not-bound`.
    """
    parts = token.split(".")
    try:
        if len(token) > TOKEN_BYTES or len(parts) != 3 or not all(parts):
            raise ValueError
        claims = load_object(decode_base64url(parts[1].encode()))
    except ValueError:
        raise RequestRefused("token-malformed", f"this is not a service-account token: {_PROJECT}") from None
    _check_audience(claims.get("aud"))
    judge_claims(claims)
    return claims


def has_expired(claims: Mapping[str, object], now: float) -> bool:
    """Whether claims are of a token that has expired."""
    expires = claims.get("exp")
    return isinstance(expires, int | float) and expires <= now


def judge_claims(claims: Mapping[str, object]) -> PodIdentity:
    """The pod in the claims of a token of a cluster.

    Raises:
        RequestRefused: `token-not-bound`, `token-malformed`.
    """
    bound = claims.get("kubernetes.io")
    if not isinstance(bound, Mapping) or not isinstance(pod := bound.get("pod"), Mapping):
        raise _not_bound()
    namespace, account = _read_username(claims.get("sub"))
    owner = bound.get("serviceaccount")
    if bound.get("namespace") != namespace or not isinstance(owner, Mapping) or owner.get("name") != account:
        raise RequestRefused("token-malformed", "the token's subject is not the service account that it is bound to")
    return _pod_identity(namespace, account, pod.get("name"), pod.get("uid"))


def judge_review(status: object) -> PodIdentity:
    """The pod in the `status` of a TokenReview that asked for our audience.

    Raises:
        RequestRefused: `token-unauthenticated`, `token-audience`, `token-not-bound`, `token-malformed`.
    """
    if not isinstance(status, Mapping) or status.get("authenticated") is not True:
        raise RequestRefused(
            "token-unauthenticated",
            "the cluster does not know the token: it is another cluster's, or its pod or service account is deleted",
        )
    # An API server that knows no audiences says nothing about them: then the token may be for anybody.
    _check_audience(status.get("audiences"))
    user = status.get("user")
    if not isinstance(user, Mapping):
        raise _not_bound()
    namespace, account = _read_username(user.get("username"))
    extra = user.get("extra")
    if not isinstance(extra, Mapping):
        raise _not_bound()
    return _pod_identity(namespace, account, _only(extra.get(_POD_NAME)), _only(extra.get(_POD_UID)))


def check_pod(identity: PodIdentity, pod: Mapping[str, object] | None) -> None:
    """That the pod is the one of the token, and may still need an identity.

    Args:
        identity: by the token.
        pod: the object of that name in the cluster; None if there is none.

    Raises:
        RequestRefused: `token-pod`.
    """
    where = f"pod {identity.namespace}/{identity.pod}"
    if pod is None:
        raise RequestRefused("token-pod", f"{where} does not exist: the token is of a pod that was deleted")
    metadata, spec, status = (_members(pod, name) for name in ("metadata", "spec", "status"))
    if metadata.get("uid") != identity.pod_uid:
        raise RequestRefused("token-pod", f"{where} is not the pod of the token, which had the same name")
    if spec.get("serviceAccountName") != identity.service_account:
        raise RequestRefused("token-pod", f"{where} runs as another service account than the token's")
    if status.get("phase") in _FINISHED:
        raise RequestRefused("token-pod", f"{where} has finished")


def _check_audience(audience: object) -> None:
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list) or AUDIENCE not in audiences:
        raise RequestRefused("token-audience", f"the token is not for the audience {AUDIENCE}: {_PROJECT}")


def _read_username(text: object) -> tuple[str, str]:
    """Namespace and name of a service account."""
    found = _USERNAME.fullmatch(text) if isinstance(text, str) and len(text) <= 2 * _NAME_CHARACTERS else None
    if found is None:
        raise RequestRefused("token-malformed", "the token is not of a service account")
    return found[1], found[3]


def _pod_identity(namespace: str, account: str, pod: object, uid: object) -> PodIdentity:
    if not isinstance(pod, str) or not isinstance(uid, str):
        raise _not_bound()
    if len(pod) > _NAME_CHARACTERS or _NAME.fullmatch(pod) is None or not 0 < len(uid) <= _UID_CHARACTERS:
        raise RequestRefused("token-malformed", "the token is bound to something that is not a pod")
    return PodIdentity(namespace, account, pod, uid)


def _not_bound() -> RequestRefused:
    return RequestRefused("token-not-bound", f"the token is not bound to a pod: {_PROJECT}")


def _only(values: object) -> object:
    """The single item of a list; None if there are none or several."""
    return values[0] if isinstance(values, list) and len(values) == 1 else None


def _members(thing: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = thing.get(name)
    return found if isinstance(found, Mapping) else {}
