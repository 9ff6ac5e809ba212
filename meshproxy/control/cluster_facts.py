"""Asks an API server what `control/precheck.py` judges. Nothing is written: the reviews that are created are questions,
which the API server answers and does not keep."""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct, field

from meshproxy.config import crds, fields, schema
from meshproxy.control.api_calls import METADATA, CallFailed, Calls, resources, why_not
from meshproxy.control.cluster import FAILURES
from meshproxy.control.crd_changes import Definition
from meshproxy.control.finding import Unknown
from meshproxy.control.precheck import Facts, Namespace, Node, Object
from meshproxy.control.service_accounts import AUDIENCE
from meshproxy.injection.inject import LABEL
from meshproxy.installation.kinds import TOKEN_REVIEWS, all_rights, kinds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import httpx2

    from meshproxy.installation.kinds import Plan, Right

T = TypeVar("T")

_NOT_A_TOKEN = "meshproxy-check"  # noqa: S105 - it is none


async def gather(client: httpx2.AsyncClient, plan: Plan, clock: Callable[[], float]) -> Facts | Unknown:
    """The facts that a plan needs; Unknown if the API server cannot be asked.

    Args:
        client: `cluster.connect_paths`.
        clock: seconds since the epoch.
    """
    questions = Questions(client)
    begun = clock()
    version = await questions.version()
    if isinstance(version, Unknown):
        return version
    release, date = version
    # The header has whole seconds, of some moment between.
    ahead = date if isinstance(date, Unknown) else date + 0.5 - (begun + clock()) / 2
    rights = all_rights(plan)
    versions = list(dict.fromkeys(kind.api_version for kind in (*kinds(plan), TOKEN_REVIEWS)))
    definitions = [crds.definition_name(kind) for kind in schema.KINDS]
    return Facts(
        release=release,
        clock_ahead=ahead,
        served=await _each(versions, partial(resources, questions.calls)),
        rights=await _each(rights, questions.is_allowed),
        definitions=await _each(definitions, questions.definition),
        documents=await _each(definitions, questions.documents),
        misled_pods=await questions.misled_pods(),
        namespaces=await questions.namespaces(),
        nodes=await questions.nodes(),
        token_review=await questions.token_review(),
    )


async def _each(keys: Sequence[Any], ask: Callable[[Any], Any]) -> dict[Any, Any]:
    """The answers to a question for each of some."""
    return dict(zip(keys, await asyncio.gather(*map(ask, keys)), strict=True))


class _Version(Struct, frozen=True, rename="camel"):
    git_version: str


class _Allowed(Struct, frozen=True):
    allowed: bool


class _Access(Struct, frozen=True):
    status: _Allowed


class _Authenticated(Struct, frozen=True):
    authenticated: bool = False


class _Review(Struct, frozen=True):
    status: _Authenticated


class _Metadata(Struct, frozen=True, rename="camel"):
    name: str
    namespace: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    deletion_timestamp: str | None = None


class _Address(Struct, frozen=True):
    address: str = ""


class _NodeInfo(Struct, frozen=True, rename="camel"):
    kubelet_version: str = ""


class _NodeStatus(Struct, frozen=True, rename="camel"):
    addresses: list[_Address] | None = None
    node_info: _NodeInfo = _NodeInfo()


class _NodeSpec(Struct, frozen=True):
    pod_cidrs: list[str] | None = field(default=None, name="podCIDRs")


class _Object(Struct, frozen=True):
    """A node, or something else, which has less."""

    metadata: _Metadata
    spec: _NodeSpec = _NodeSpec()
    status: _NodeStatus = _NodeStatus()

    @property
    def addresses(self) -> list[str]:
        """Of a node and its pods."""
        return [each.address for each in self.status.addresses or ()] + (self.spec.pod_cidrs or [])


class Questions:
    """What can be asked of an API server; each answer may be Unknown."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client
        self.calls = Calls(client)

    async def version(self) -> tuple[str | Unknown, float | Unknown] | Unknown:
        """The release, and the server's clock in seconds since the epoch; Unknown if it cannot be asked."""
        try:
            response = await self._client.get("/version")
            if response.status_code == 401:
                response.raise_for_status()
        except FAILURES as error:
            return Unknown(why_not(error))
        date: float | Unknown
        try:
            date = parsedate_to_datetime(response.headers.get("date", "")).timestamp()
        except ValueError:
            date = Unknown("the response has no Date")
        try:
            return msgspec.json.decode(response.raise_for_status().content, type=_Version).git_version, date
        except FAILURES as error:
            return Unknown(why_not(error)), date

    async def is_allowed(self, right: Right) -> bool | Unknown:
        """Whether whoever asks has a right."""
        attributes = {"verb": right.verb, "group": right.group, "resource": right.resource}
        if right.namespace:
            attributes["namespace"] = right.namespace
        spec = {"resourceAttributes": attributes}
        try:
            found = await self._review(_Access, "authorization.k8s.io", "SelfSubjectAccessReview", spec)
        except CallFailed as failed:
            return failed.unknown
        return found.status.allowed

    async def definition(self, name: str) -> Definition | Unknown | None:
        """A CustomResourceDefinition; None: there is none."""
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        try:
            return await self.calls.call(Definition, "GET", path)
        except CallFailed as failed:
            return None if failed.status == 404 else failed.unknown

    async def documents(self, definition: str) -> list[Object] | Unknown:
        """Those of one of our kinds, wherever they are; none if the kind is not there."""
        try:
            return await self._objects(f"/apis/{fields.API_VERSION}/{definition.partition('.')[0]}")
        except CallFailed as failed:
            return [] if failed.status == 404 else failed.unknown

    async def misled_pods(self) -> list[Object] | Unknown:
        """Those with a word as their label that nobody reads."""
        try:
            return await self._objects("/api/v1/pods", labelSelector=f"{LABEL},{LABEL} notin (enabled,disabled)")
        except CallFailed as failed:
            return failed.unknown

    async def _objects(self, path: str, **query: str) -> list[Object]:
        """The objects of a list. Raises CallFailed."""
        found = [each.metadata for each in await self.calls.list(_Object, path, METADATA, **query)]
        return [Object(each.namespace, each.name, each.labels or {}) for each in found]

    async def namespaces(self) -> list[Namespace] | Unknown:
        """All of them."""
        try:
            found = [each.metadata for each in await self.calls.list(_Object, "/api/v1/namespaces", METADATA)]
        except CallFailed as failed:
            return failed.unknown
        return [
            Namespace(each.name, each.labels or {}, each.annotations or {}, each.deletion_timestamp is not None)
            for each in found
        ]

    async def nodes(self) -> list[Node] | Unknown:
        """All of them."""
        try:
            found = await self.calls.list(_Object, "/api/v1/nodes")
        except CallFailed as failed:
            return failed.unknown
        return [
            Node(
                each.metadata.name,
                each.status.node_info.kubelet_version,
                has_ipv6=any(":" in address for address in each.addresses),
            )
            for each in found
        ]

    async def token_review(self) -> str | Unknown:
        """Why a token is not reviewed; empty if it is. What is sent is no token, so it has to be refused."""
        spec = {"token": _NOT_A_TOKEN, "audiences": [AUDIENCE]}
        try:
            found = await self._review(_Review, "authentication.k8s.io", "TokenReview", spec)
        except CallFailed as failed:
            return "TokenReviews are not served" if failed.status == 404 else failed.unknown
        return "it takes a text that is no token for one" if found.status.authenticated else ""

    async def _review(self, answer: type[T], group: str, kind: str, spec: Mapping[str, Any]) -> T:
        """The answer to a question that is put as an object. Raises CallFailed."""
        body = {"apiVersion": f"{group}/v1", "kind": kind, "spec": spec}
        return await self.calls.call(answer, "POST", f"/apis/{group}/v1/{kind.lower()}s", json=body)
