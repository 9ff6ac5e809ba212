"""ConfigMaps and Secrets that several control planes and commands share: read, and written on what was read.

Whoever writes says which version it has read; the API server refuses if somebody has written meanwhile. So a decision
is never carried out on something else than it was made of: read again, and decide again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec

from meshproxy.control.cluster import FAILURES, passes, why
from meshproxy.control.store import Changed, Kept, StoreError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_BYTES = 1 << 20
"""Of the entries of an object (`MaxSecretSize` of Kubernetes)."""
MERGE_PATCH = {"content-type": "application/merge-patch+json"}


@dataclass(frozen=True, slots=True)
class Version:
    """Of an object, and what was seen with it."""

    text: str
    """`resourceVersion`; empty: the object did not exist."""
    created: float = 0.0
    """When it was made, by the clock of the API server: seconds since the epoch."""
    size: int = 0
    """Bytes of its entries without their names: of a ConfigMap, what counts towards `MOST_BYTES`."""


class Full(StoreError):
    """An object takes no more; nothing was written."""


class SharedObjects:
    """The objects of one namespace. Every call blocks, and raises StoreError.

    Args:
        client: `cluster.connect_blocking`.
        namespace: of the objects.
        who: whose rights an error is about.
    """

    def __init__(self, client: httpx2.Client, namespace: str, who: str = "this control plane") -> None:
        self._client = client
        self.namespace = namespace
        self._who = who

    def read(self, plural: str, name: str) -> tuple[dict[str, str], Version]:
        """The `data` of an object, and its version; nothing if there is none.

        Args:
            plural: `configmaps` or `secrets`.
            name: of the object.
        """
        answer = self._call("get", plural, name)
        if answer is None:
            return {}, Version("")
        metadata = answer["metadata"]
        created = datetime.fromisoformat(metadata["creationTimestamp"]).timestamp()
        data: dict[str, str] = dict(answer.get("data") or {})
        size = sum(len(text.encode()) for text in data.values())
        return data, Version(str(metadata["resourceVersion"]), created, size)

    def write(self, plural: str, name: str, changes: Mapping[str, str | None], version: Version | None = None) -> None:
        """Set some entries of `data`, and remove those that are None. An object that does not exist is made.

        Args:
            plural: `configmaps` or `secrets`.
            name: of the object.
            changes: by the names of entries.
            version: that the object must have. None: any, since the entries are the caller's own.

        Raises:
            Changed: it has another version, or others make and delete it meanwhile.
        """
        if version is None or version.text:
            metadata = {"resourceVersion": version.text} if version is not None else {}
            if self._call("patch", plural, name, {"metadata": metadata, "data": dict(changes)}) is not None:
                return
            if version is not None:
                raise Changed(f"{self.where(plural, name)} was deleted meanwhile")
        data = {entry: text for entry, text in changes.items() if text is not None}
        if not data:
            return
        try:
            self._call("create", plural, name, {"metadata": {"name": name}, "data": data})
        except Changed:
            if version is not None:
                raise
            if self._call("patch", plural, name, {"data": dict(changes)}) is None:
                raise Changed(f"{self.where(plural, name)} is made and deleted all the time: try again") from None

    def read_structs(self, name: str, kind: type[Kept], what: str) -> tuple[dict[str, Kept], Version]:
        """The entries of a ConfigMap that `write_structs` has written, and its version.

        Args:
            name: of the ConfigMap.
            kind: of each entry.
            what: an entry should be, and what to do with one that is not.
        """
        content, version = self.read("configmaps", name)
        try:
            return {entry: msgspec.json.decode(text, type=kind) for entry, text in content.items()}, version
        except msgspec.DecodeError as error:
            raise StoreError(f"an entry of {self.where('configmaps', name)} is not {what} ({error})") from None

    def write_structs(
        self, name: str, changes: Mapping[str, msgspec.Struct | None], version: Version | None = None
    ) -> None:
        """As `write`, to a ConfigMap whose entries are structs, as JSON."""
        texts = {
            entry: msgspec.json.encode(struct).decode() if struct is not None else None
            for entry, struct in changes.items()
        }
        self.write("configmaps", name, texts, version)

    def close(self) -> None:
        """Nothing can be asked any more."""
        self._client.close()

    def where(self, plural: str, name: str) -> str:
        """For people."""
        return f"the {'Secret' if plural == 'secrets' else 'ConfigMap'} {self.namespace}/{name}"

    def _call(self, verb: str, plural: str, name: str, body: Mapping[str, object] | None = None) -> Any:
        """The object; None if there is none. Raises StoreError."""
        path = f"/api/v1/namespaces/{self.namespace}/{plural}"
        try:
            if verb == "create":
                answer = self._client.post(path, json=body)
            elif verb == "patch":
                answer = self._client.patch(f"{path}/{name}", json=body, headers=MERGE_PATCH)
            else:
                answer = self._client.get(f"{path}/{name}")
            if answer.status_code == HTTPStatus.NOT_FOUND and verb != "create":
                return None
            if answer.status_code == HTTPStatus.CONFLICT:
                raise Changed(f"others write {self.where(plural, name)} all the time: try again")
            if answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY and b"Too long" in answer.content:
                raise Full(f"{self.where(plural, name)} is full: an object takes {MOST_BYTES >> 20} MiB")
            answer.raise_for_status()
            return answer.json()
        except FAILURES as error:
            doing = "read" if verb == "get" else "written"
            problem = why(error, f"{verb} it (`meshproxy install` prints the rights)", self._who)
            kind = Unreachable if passes(error) else StoreError
            raise kind(f"{self.where(plural, name)} cannot be {doing}: {problem}") from error
