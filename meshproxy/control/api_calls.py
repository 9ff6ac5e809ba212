"""Calls of an API server by path, for commands that look at whatever is there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
from msgspec import Struct, field

from meshproxy.control.cluster import FAILURES, http_status
from meshproxy.control.finding import Unknown

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

AT_ONCE = 8
"""Requests: more would be slowed down by the API server's own fairness."""
PAGE = 500
"""Objects of one page of a list, as kubectl has it."""
METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1, application/json"
"""What to accept for a list of metadata only."""


def why_not(error: Exception) -> str:
    """Why a call of a command has come to nothing: what the API server has answered, in its words."""
    status = http_status(error)
    if status is None:
        return f"no answer ({type(error).__name__}: {error})"
    response: httpx2.Response = error.response  # type: ignore[attr-defined]
    try:
        said = msgspec.json.decode(response.content).get("message", "")
    except (msgspec.DecodeError, AttributeError):
        said = ""
    return f"the API server answered {status}" + (f": {said}" if said else "")


class _Resource(Struct, frozen=True):
    name: str


class _Resources(Struct, frozen=True):
    resources: list[_Resource]


@dataclass(slots=True)
class CallFailed(Exception):
    """A call that came to nothing.

    Attributes:
        status: of the answer; None: there was none, or it cannot be read.
    """

    unknown: Unknown
    status: int | None


class _ListMetadata(Struct, frozen=True):
    more: str = field(default="", name="continue")


class _Page(Struct, Generic[T], frozen=True):
    items: list[T] | None  # null in a list of metadata that is empty
    metadata: _ListMetadata = _ListMetadata()


class Calls:
    """Makes calls, a few at a time.

    Args:
        client: `cluster.connect_paths`.
    """

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def call(self, answer: type[T], method: str, path: str, **more: Any) -> T:
        """The answer, read as this type.

        Args:
            more: as `httpx2.AsyncClient.request` has it.

        Raises:
            CallFailed: there is no answer, another one, or an error.
        """
        async with self._turns:
            try:
                response = (await self._client.request(method, path, **more)).raise_for_status()
                return msgspec.json.decode(response.content, type=answer)
            except FAILURES as error:
                raise CallFailed(Unknown(why_not(error)), http_status(error)) from None

    async def list(self, item: type[T], path: str, accept: str = "application/json", **query: str) -> list[T]:
        """All objects of a list, page by page. Raises CallFailed."""
        found: list[T] = []
        query["limit"] = str(PAGE)
        page_of: type[_Page[T]] = _Page[item]  # type: ignore[valid-type]
        while True:
            page = await self.call(page_of, "GET", path, params=query, headers={"accept": accept})
            found += page.items or ()
            if not page.metadata.more:
                return found
            query["continue"] = page.metadata.more


async def resources(calls: Calls, api_version: str) -> frozenset[str] | Unknown:
    """The names of what a version of a group serves; none if it is not there."""
    path = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    try:
        return frozenset(each.name for each in (await calls.call(_Resources, "GET", path)).resources)
    except CallFailed as failed:
        return frozenset() if failed.status == 404 else failed.unknown
