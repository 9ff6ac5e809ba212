"""Asks an API server what it would make of objects. Nothing is written: every request that could is a dry run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from meshproxy.config.fields import API_VERSION
from meshproxy.control.api_calls import METADATA, CallFailed, Calls, resources
from meshproxy.control.field_sets import dropped, without
from meshproxy.control.finding import Unknown
from meshproxy.control.upgrade_plan import DEFINITION, Absent, Applied, LeftOver, Refused
from meshproxy.installation.kinds import EVERY, kind_of
from meshproxy.installation.parts import LABEL

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import httpx2

    from meshproxy.control.upgrade_plan import Answer
    from meshproxy.installation.kinds import ObjectKind

    Object = Mapping[str, Any]

MANAGER = "meshproxy-upgrade"
"""The field manager of dry runs: no other has this name, so what it applies is what is wanted."""
TRIES = 5
"""How often an object is looked at that is changed between two requests."""
_DRY_RUN = {"dryRun": "All", "fieldManager": MANAGER, "fieldValidation": "Strict"}
_REFUSALS = frozenset({400, 403, 422})
_OUR_GROUP = "." + API_VERSION.partition("/")[0]


class _Metadata(Struct, frozen=True):
    name: str
    namespace: str = ""


class _Named(Struct, frozen=True):
    metadata: _Metadata


async def gather(client: httpx2.AsyncClient, wanted: Sequence[Object]) -> list[Answer]:
    """What would become of objects, each for itself.

    Args:
        client: `cluster.connect_paths`.
        wanted: as `installation` makes them.
    """
    calls = Calls(client)
    made = {(each["kind"], each["metadata"]["name"]) for each in wanted}
    return list(await asyncio.gather(*(_ask(calls, each, made) for each in wanted)))


async def _ask(calls: Calls, wanted: Object, made: Collection[tuple[str, str]]) -> Answer:
    """What would become of one, if these are made before it."""
    for _ in range(TRIES):
        if (answer := await _ask_once(calls, wanted, made)) is not None:
            return answer
    return Unknown(f"it was changed by others {TRIES} times in between: ask again")


async def _ask_once(calls: Calls, wanted: Object, made: Collection[tuple[str, str]]) -> Answer | None:
    """None: somebody has changed it in between, as controllers do."""
    metadata = wanted["metadata"]
    path = kind_of(wanted).path(metadata.get("namespace", ""), metadata["name"])
    live: Object | None = None
    try:
        live = await calls.call(dict[str, Any], "GET", path)
    except CallFailed as failed:
        if failed.status != 404:
            return failed.unknown
    try:
        after = await _apply(calls, path, wanted)
        if live is not None:
            after = await _drop(calls, path, live, after)
    except CallFailed as failed:
        if failed.status == 409:
            return None
        if live is None and failed.status == 404:
            return await _missing(calls, wanted, failed, made)
        return Refused(failed.unknown.why, live) if failed.status in _REFUSALS else failed.unknown
    return Absent() if live is None else Applied(live, after)


async def _missing(calls: Calls, wanted: Object, failed: CallFailed, made: Collection[tuple[str, str]]) -> Answer:
    """What becomes of an object whose namespace or kind is not there."""
    kind = kind_of(wanted)
    served = await resources(calls, kind.api_version)
    if isinstance(served, Unknown):
        return served
    if kind.resource not in served:
        if (DEFINITION, kind.full_name) in made:
            return Absent()
        return Refused(f"the API server does not serve {kind.full_name} in {kind.api_version}: meshproxy check --pre")
    if ("Namespace", wanted["metadata"].get("namespace")) in made:
        return Absent()
    return Refused(failed.unknown.why)


async def _apply(calls: Calls, path: str, wanted: Object) -> Object:
    """What `kubectl apply --server-side --force-conflicts` would make of it. Raises CallFailed."""
    return await calls.call(
        dict[str, Any],
        "PATCH",
        path,
        params={**_DRY_RUN, "force": "true"},
        headers={"content-type": "application/apply-patch+yaml"},
        json=wanted,
    )


async def _drop(calls: Calls, path: str, live: Object, after: Object) -> Object:
    """The same without what was applied before, and is not any more; the API server fills in its defaults again.
    Raises CallFailed."""
    before, behind = (each["metadata"].get("managedFields") or () for each in (live, after))
    gone = dropped(before, behind, MANAGER)
    if not gone:
        return after
    content = without(after, gone)
    metadata = {**content["metadata"], "resourceVersion": live["metadata"]["resourceVersion"]}
    metadata.pop("managedFields", None)
    return await calls.call(dict[str, Any], "PUT", path, params=_DRY_RUN, json={**content, "metadata": metadata})


async def left_over(client: httpx2.AsyncClient, wanted: Sequence[Object]) -> list[LeftOver] | Unknown:
    """The objects of meshproxy that are not wanted; Unknown if one kind of them cannot be listed."""
    calls = Calls(client)
    have = {(kind_of(each), each["metadata"].get("namespace", ""), each["metadata"]["name"]) for each in wanted}
    try:
        found = [each for kind in EVERY for each in await _labelled(calls, kind)]
    except CallFailed as failed:
        return failed.unknown
    return [each for each in found if (each.kind, each.namespace, each.name) not in have]


async def _labelled(calls: Calls, kind: ObjectKind) -> list[LeftOver]:
    """The objects of a kind that are of meshproxy: by their label, or kinds by their group. Raises CallFailed."""
    is_definition = kind.kind == DEFINITION
    query = {} if is_definition else {"labelSelector": f"{LABEL}=meshproxy"}
    try:
        found = await calls.list(_Named, kind.path(), METADATA, **query)
    except CallFailed as failed:
        if failed.status == 404:
            return []  # the kind is not served
        raise
    names = (each.metadata for each in found if not is_definition or each.metadata.name.endswith(_OUR_GROUP))
    return [LeftOver(kind, each.name, each.namespace) for each in names]
