"""Keeps the status of rollouts in the status of their objects, and tells of them in events."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.meta_v1 import ObjectMeta

from meshproxy.config.fields import API_VERSION
from meshproxy.config.rollouts import ModelRollout
from meshproxy.control.cluster import FAILURES, http_status, why
from meshproxy.control.objects import resource
from meshproxy.control.rollouts import KeepFailed
from meshproxy.rollout.steps import RolloutStatus

if TYPE_CHECKING:
    from lightkube import AsyncClient

    from meshproxy.control.election import Election
    from meshproxy.rollout.steps import Notice

FIELD_MANAGER = "meshproxy-rollouts"
"""Another one than that of the rest of the status: each takes away what it does not apply."""
CALL_SECONDS = 5.0
Event = create_namespaced_resource("", "v1", "Event", "events")


class ObjectKeeper:
    """Of control planes that share a cluster.

    Args:
        client: of the cluster; its namespace is the objects'.
        election: tells whether this control plane leads.
    """

    def __init__(self, client: AsyncClient, election: Election) -> None:
        self._client = client
        self._election = election
        self._resource: Any = resource(ModelRollout)

    def is_leader(self) -> bool:
        return self._election.is_leader()

    async def load(self, name: str) -> RolloutStatus | None:
        found = (await self._get(name)).get("status") or {}
        if not found.get("rollout"):
            return None
        try:
            return msgspec.convert(found["rollout"], RolloutStatus, strict=False, str_keys=True)
        except msgspec.ValidationError as error:
            raise KeepFailed(f"status.rollout of ModelRollout {name} is not ours: {error}") from None

    async def keep(self, name: str, status: RolloutStatus) -> None:
        # What the table of kubectl shows is there even if it is the default.
        shown = {"phase": status.phase.value, "weight": status.weight}
        content = shown | msgspec.to_builtins(status, str_keys=True)
        metadata = ObjectMeta(name=name, namespace=self._client.namespace)
        told = self._resource.Status(metadata=metadata, status={"rollout": content})
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self._client.apply(told, field_manager=FIELD_MANAGER, force=True)
        except FAILURES as error:
            raise KeepFailed(why(error, "patch the status of modelrollouts")) from None

    async def tell(self, name: str, notice: Notice) -> None:
        at = datetime.fromtimestamp(notice.at, UTC)
        second = at.strftime("%Y-%m-%dT%H:%M:%SZ")
        namespace = self._client.namespace
        metadata: Any = {"name": f"{name}.{int(notice.at * 1e6):x}", "namespace": namespace}
        event: Any = Event(
            metadata=metadata,
            involvedObject={"apiVersion": API_VERSION, "kind": "ModelRollout", "name": name, "namespace": namespace},
            type="Warning" if notice.is_warning else "Normal",
            reason=notice.reason,
            message=notice.message,
            source={"component": "meshproxy-control"},
            firstTimestamp=second,
            lastTimestamp=second,
            count=1,
        )  # fmt: skip
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self._client.create(event)
        except FAILURES as error:
            if http_status(error) != HTTPStatus.CONFLICT:
                raise KeepFailed(why(error, "create events")) from None

    async def _get(self, name: str) -> Any:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await self._client.get(self._resource, name)
        except httpx2.HTTPStatusError as error:
            if error.response.status_code == HTTPStatus.NOT_FOUND:
                return {}
            raise KeepFailed(why(error, "get modelrollouts")) from None
        except FAILURES as error:
            raise KeepFailed(why(error, "get modelrollouts")) from None
