"""A copy of the objects of one kind in the API server, kept up to date: list, replace, watch, and again.

Kubernetes calls this a reflector (client-go `tools/cache`). A watch is never trusted for long: it ends, it may tell of
nothing because its version is from before a restored backup, and what happened before its version is compacted is lost.
So a list replaces the copy after each of them. While the API server is away, the copy stays as it was.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import httpx2
from lightkube.core.exceptions import ApiError, ConfigError

from meshproxy.control.cluster import WatchEnded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from lightkube import AsyncClient
    from lightkube.core.resource import NamespacedResourceG
    from lightkube.models.meta_v1 import ObjectMeta

    from meshproxy.telemetry.control_metrics import ControlMetrics

logger = logging.getLogger(__name__)

LIST_EVERY = 300.0
"""Seconds that a watch lasts at most; a fifth less at random."""
STEADY = 10.0
"""A watch that lasted this long came to something."""
FIRST_PAUSE = 0.2
LAST_PAUSE = 30.0
"""Seconds until the next list, doubled after each watch that was not steady; half of them at random."""
PAGE = 100
"""Objects that are received at once: each is smaller than 3 MiB, etcd's limit for a request with what is added."""
OBJECTS = 20_000
BYTES = 32 << 20
"""Of one kind: what is kept of the objects, by `weigh`. Twice what a sidecar may be sent."""

T = TypeVar("T")
Key = tuple[str, str]
"""Namespace and name."""


class TooManyObjects(Exception):
    """More than `OBJECTS`, or `BYTES`."""


class ObjectCopies(Generic[T]):
    """What is known of the objects. Events that come twice, or late, change nothing.

    Attributes:
        values: what is kept of each object.
    """

    def __init__(self, weigh: Callable[[T], int] = lambda value: 0) -> None:
        self._weigh = weigh
        self._versions: dict[Key, int] = {}
        """Of the newest event for each object; of those that were deleted, too, until the next list."""
        self.values: dict[Key, T] = {}
        self._weight = 0

    def replace(self, listed: Mapping[Key, tuple[int, T]]) -> set[Key]:
        """Take a list for what there is. Returns which are different; the others are the same values as before."""
        before = self.values
        self._versions = {key: version for key, (version, _) in listed.items()}
        self.values = {
            key: known if (known := before.get(key)) == value else value for key, (_, value) in listed.items()
        }
        self._weight = sum(map(self._weigh, self.values.values()))
        return {key for key in before.keys() | self.values.keys() if before.get(key) is not self.values.get(key)}

    def take(self, key: Key, version: int, value: T | None) -> bool:
        """An event of a watch; None for an object that was deleted. True if anything is different. Raises
        TooManyObjects."""
        if version <= self._versions.get(key, -1):
            return False
        before = self.values.get(key)
        grown = (0 if value is None else self._weigh(value)) - (0 if before is None else self._weigh(before))
        if value is not None and (
            (before is None and len(self.values) >= OBJECTS) or (grown > 0 and self._weight + grown > BYTES)
        ):
            raise TooManyObjects
        if len(self._versions) >= 2 * OBJECTS:
            self._versions = {kept: self._versions[kept] for kept in self.values}
        self._versions[key] = version
        if before == value:
            return False
        self._weight += grown
        if value is None:
            del self.values[key]
        else:
            self.values[key] = value
        return True


def identify(shown: Any) -> tuple[Key, int]:
    """Which object it is, and its version, which grows with each change (KEP-5504). Raises ValueError."""
    metadata: ObjectMeta = shown.metadata
    if metadata.name is None or metadata.resourceVersion is None:
        raise ValueError("an object without a name or a version")
    return (metadata.namespace or "", metadata.name), int(metadata.resourceVersion)


class Reflector(Generic[T]):
    """Keeps a copy of the objects of one kind.

    Attributes:
        synced: set once the first list has come.
        problem: why they cannot be followed now; empty if they can.
    """

    def __init__(
        self,
        client: AsyncClient,
        resource: type[NamespacedResourceG],
        read: Callable[[Any], T],
        changed: Callable[[Collection[Key]], None],
        metrics: ControlMetrics,
        namespace: str | None = None,
        labels: Mapping[str, Sequence[str]] | None = None,
        weigh: Callable[[T], int] = lambda value: 0,
    ) -> None:
        """Args:
        resource: a class of lightkube whose objects are mappings (`create_namespaced_resource`).
        read: what is kept of an object, never None. An error ends the watch, and the copy stays as it was.
        changed: called with the keys of `values` that are different, at the first list in any case.
        namespace: None: the client's; `*`: all.
        labels: only objects with one of these values of each of these labels.
        weigh: the bytes of what is kept of an object.
        """
        self._client = client
        self._resource = resource
        self._namespace = namespace
        self._labels: dict[str, Any] | None = dict(labels) if labels is not None else None
        self._changed = changed
        self._metrics = metrics
        self._kind: str = resource.__name__
        self._read = read
        self._weigh = weigh
        self._copies = ObjectCopies(weigh)
        self.problem = ""
        self.synced = asyncio.Event()

    @property
    def values(self) -> Mapping[Key, T]:
        """What there was of the objects when the API server was last heard of."""
        return self._copies.values

    async def run(self) -> None:
        """Follow the objects until cancelled."""
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE
        while True:
            began = loop.time()
            reason, text = await self._once()
            self._metrics.watch_restarts.labels(self._kind, reason).value += 1
            if text:
                self._note_away(reason, text)
            pause = FIRST_PAUSE if loop.time() - began >= STEADY else min(2 * pause, LAST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311

    async def _once(self) -> tuple[str, str]:
        """One list and one watch. Returns why it ended, as a metric label, and in words if that is a fault."""
        try:
            version = await self._list()
            return await self._watch(version), ""
        except ApiError as error:
            return _refusal(error.status.code or 0, error.status.message or "")
        except httpx2.HTTPStatusError as error:
            return _refusal(error.response.status_code, error.response.reason_phrase)
        except (httpx2.HTTPError, ConfigError, OSError) as error:
            return "unavailable", f"{type(error).__name__}: {error}".rstrip(": ")
        except TooManyObjects:
            self._metrics.limits_exceeded.labels("control", "objects").value += 1
            return (
                "limit",
                f"more than {OBJECTS:,} objects or {BYTES >> 20} MiB: changes are not looked at until some are deleted",
            )
        except Exception as error:  # whatever lightkube and `read` make of what is no object
            return "malformed", f"{type(error).__name__}: {error}"

    async def _list(self) -> str:
        """Replace the copy. Returns the version of the list."""
        found: dict[Key, tuple[int, T]] = {}
        weight = 0
        listing = self._client.list(self._resource, namespace=self._namespace, labels=self._labels, chunk_size=PAGE)
        async for shown in listing:
            key, version = identify(shown)
            value = self._read(shown)
            found[key] = version, value
            weight += self._weigh(value)
            if len(found) > OBJECTS or weight > BYTES:
                raise TooManyObjects
        different = self._copies.replace(found)
        self._note_contact()
        if different or not self.synced.is_set():
            self.synced.set()
            self._changed(different)
        return listing.resourceVersion

    async def _watch(self, since: str) -> str:
        """Follow what happens after a version. Returns why it ended."""
        seconds = LIST_EVERY * random.uniform(0.8, 1.0)  # noqa: S311
        try:
            async with asyncio.timeout(seconds):
                events = self._client.watch(
                    self._resource,
                    namespace=self._namespace,
                    labels=self._labels,
                    resource_version=since,
                    server_timeout=int(seconds) + 1,
                )
                # The type of lightkube promises less than a generator, and an open stream must not wait for the
                # garbage collector.
                async with aclosing(cast("Any", events)):
                    async for kind, shown in events:
                        self._note_contact()
                        key, version = identify(shown)
                        if self._copies.take(key, version, None if kind == "DELETED" else self._read(shown)):
                            self._changed((key,))
        except TimeoutError:
            return "resync"
        except WatchEnded:
            pass
        return "ended"

    def _note_contact(self) -> None:
        self._metrics.cluster_contact.labels(self._kind).value = time.time()
        if self.problem:
            self.problem = ""
            logger.info("objects are followed again", extra={"fields": {"kind": self._kind}})

    def _note_away(self, reason: str, text: str) -> None:
        """Once for each time that it is away, not for each attempt."""
        if not self.problem:
            fields = {"kind": self._kind, "reason": reason, "problem": text}
            logger.warning("objects cannot be followed; those known are kept", extra={"fields": fields})
        self.problem = text


def _refusal(code: int, text: str) -> tuple[str, str]:
    """Why an answer with this status ends a watch: as a metric label, and in words if that is a fault."""
    if code == 410:
        return "expired", ""
    if code == 404:
        text += ": its CustomResourceDefinition is not there"
    return "unavailable" if code == 429 or code >= 500 else "refused", f"{code} {text}"
