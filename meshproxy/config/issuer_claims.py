"""What is known of well-known issuers: the claims of their tokens, where the list is closed, so that a path outside of
it leads nowhere.

Sources: Kubernetes, pkg/serviceaccount/claims.go (a token of a service account in 1.37); AWS, IAM User Guide,
"Understanding token claims" (`sts:GetWebIdentityToken`). Issuers whose claims an administrator extends (Keycloak,
Azure, Auth0, Okta, Cognito) are not here: nobody but them knows what their tokens have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from meshproxy.config.values import shown

Members = dict[str, "Members | None"]
"""Names at one level, and what is below each; None: a value, or an object of any members."""

_REGISTERED: Members = dict.fromkeys(("aud", "exp", "iat", "iss", "jti", "nbf", "sub"))
_OBJECT: Members = {"name": None, "uid": None}
_CLOSED: tuple[tuple[re.Pattern[str], str, Members], ...] = (
    (
        re.compile(
            r"https://kubernetes\.default(\.svc(\.[a-z0-9.-]+)?)?/?|https://oidc\.eks\.[a-z0-9-]+\.amazonaws\.com/.+"
        ),
        "Kubernetes",
        {
            **_REGISTERED,
            "kubernetes.io": {
                "namespace": None,
                "node": _OBJECT,
                "pod": _OBJECT,
                "secret": _OBJECT,
                "serviceaccount": _OBJECT,
                "warnafter": None,
            },
        },
    ),
    (
        re.compile(r"https://[^/]+\.tokens\.sts\.global\.api\.aws"),
        "AWS STS",
        {**_REGISTERED, "https://sts.amazonaws.com/": None},
    ),
)


def why_no_token_has(issuer: str, path: str | Sequence[str]) -> str | None:
    """Why no token of this issuer can have a claim at the path; None if one may.

    Args:
        issuer: its `iss`.
        path: names with dots between them, or the names of all levels.
    """
    for url, name, members in _CLOSED:
        if url.fullmatch(issuer) and not _leads(members, path):
            known = ", ".join(sorted(members))
            what = shown(path) if isinstance(path, str) else list(path)
            return f"no token of {name} has {what}: they have {known}, so this never matches"
    return None


def _leads(members: Members | None, path: str | Sequence[str]) -> bool:
    if members is None or not path:
        return True
    if not isinstance(path, str):
        return path[0] in members and _leads(members[path[0]], path[1:])
    return any(
        path == name or (path.startswith(f"{name}.") and _leads(below, path[len(name) + 1 :]))
        for name, below in members.items()
    )
