"""The documents that are objects in the API server of Kubernetes, in one namespace (`DocumentSource`).

One namespace only: documents refer to each other by name, and decide for the whole mesh, so whoever may write them is a
matter of RBAC in that namespace.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from lightkube.generic_resource import create_namespaced_resource

from meshproxy.config import crds, schema
from meshproxy.config.fields import API_VERSION
from meshproxy.config.files import Source, Written
from meshproxy.control.reflector import Reflector

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from lightkube import AsyncClient
    from lightkube.core.resource import NamespacedResourceG

    from meshproxy.config.problems import Problem
    from meshproxy.control.reflector import Key
    from meshproxy.telemetry.control_metrics import ControlMetrics

SETTLE = 0.05
"""Seconds until a change is told of: the objects of one `kubectl apply` come one after the other."""


def resource(kind: type[msgspec.Struct]) -> type[NamespacedResourceG]:
    """The class of lightkube for one of our kinds."""
    group, _, version = API_VERSION.partition("/")
    made: type[NamespacedResourceG] = create_namespaced_resource(group, version, kind.__name__, crds.plural(kind))
    return made


class ClusterObjects:
    """The objects of all our kinds in a namespace.

    Attributes:
        name: what to call them in a problem that none of them has.
    """

    is_whole = False

    def __init__(self, client: AsyncClient, namespace: str, metrics: ControlMetrics) -> None:
        self.name = f"namespace {namespace}"
        self._changed: Callable[[], None] = lambda: None
        self._reflectors = {
            kind.__name__: Reflector(
                client,
                resource(kind),
                partial(read_object, kind.__name__),
                partial(self._note, kind.__name__),
                metrics,
                namespace,
                weigh=_weigh,
            )
            for kind in schema.KINDS
        }
        self._different: set[tuple[str, Key]] = set()
        """Kinds and keys of the objects that are others than at the last read."""
        self._running: list[asyncio.Task[None]] = []
        self._telling: asyncio.TimerHandle | None = None

    @property
    def problem(self) -> str:
        """Why objects cannot be followed, each reason with the kinds that have it."""
        kinds: dict[str, list[str]] = {}
        for kind, each in self._reflectors.items():
            if each.problem:
                kinds.setdefault(each.problem, []).append(kind)
        return "; ".join(f"{', '.join(names)}: {problem}" for problem, names in kinds.items())

    async def read(self) -> tuple[Mapping[str, Source | None], Sequence[Problem]]:
        """Objects that are different, as JSON, once all kinds have been listed. While the API server is away, none."""
        if not self._running:
            self._running = [asyncio.create_task(each.run()) for each in self._reflectors.values()]
        for each in self._reflectors.values():
            await each.synced.wait()
        different, self._different = self._different, set()
        return {str(_path(kind, key[1])): self._reflectors[kind].values.get(key) for kind, key in different}, ()

    def start(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever an object is."""
        self._changed = changed

    def stop(self) -> None:
        """Follow nothing any more."""
        for task in self._running:
            task.cancel()
        if self._telling is not None:
            self._telling.cancel()

    def _note(self, kind: str, keys: Collection[Key]) -> None:
        self._different |= {(kind, key) for key in keys}
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(SETTLE, self._tell)

    def _tell(self) -> None:
        self._telling = None
        self._changed()


def read_object(kind: str, shown: Any) -> Source:
    """An object without what the API server and the control plane say of it. It is JSON, which is YAML. What is wrong
    with it is found when it is parsed."""
    name = shown["metadata"]["name"]
    kept = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}}
    if "spec" in shown:
        kept["spec"] = shown["spec"]
    text = _ODD.sub(_escaped, msgspec.json.encode(kept).decode())
    return Source(
        _path(kind, name),
        text.encode(),
        is_named=True,
        is_local=False,
        root=Path(),
        edition=f"{shown['metadata'].get('uid')}/{shown['metadata'].get('generation')}",
        written=_written(shown),
    )


def _written(shown: Any) -> Written | None:
    """The field manager that has changed the object last, as the API server notes (`metadata.managedFields`), and when.
    Whose credentials it had, only the audit log of Kubernetes knows. Entries of subresources, such as our status, are
    no changes of the document."""
    managed = [each for each in shown["metadata"].get("managedFields") or () if not each.get("subresource")]
    if not managed:
        return None
    last = max(managed, key=lambda each: each.get("time") or "")  # RFC 3339 in UTC, which sorts as text
    return Written(str(last.get("manager") or "unknown"), str(last.get("time") or ""), is_software=True)


def _path(kind: str, name: str) -> Path:
    """What an object is called as a text."""
    return Path(kind, name)


# Characters that JSON has as they are, and YAML as escapes only.
_ODD = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _weigh(source: Source) -> int:
    return len(source.content)
