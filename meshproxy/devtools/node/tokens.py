"""Tokens of service accounts, by TokenRequest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightkube.models.authentication_v1 import BoundObjectReference, TokenRequestSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ServiceAccountToken

if TYPE_CHECKING:
    from lightkube import AsyncClient


async def request_token(
    client: AsyncClient,
    namespace: str,
    account: str,
    *,
    audience: str = "",
    seconds: int = 600,
    pod: tuple[str, str] | None = None,
) -> str:
    """A token of a service account. Raises one of `meshproxy.control.cluster.FAILURES`.

    Args:
        audience: empty: the API server's own.
        seconds: how long it is to last.
        pod: the name and the uid of the pod that it is bound to, if it is one that a kubelet projects.
    """
    bound = BoundObjectReference(apiVersion="v1", kind="Pod", name=pod[0], uid=pod[1]) if pod else None
    spec = TokenRequestSpec(audiences=[audience] if audience else [], boundObjectRef=bound, expirationSeconds=seconds)
    made = await client.create(ServiceAccountToken(metadata=ObjectMeta(), spec=spec), account, namespace=namespace)
    assert made.status is not None
    assert made.status.token is not None
    return made.status.token
