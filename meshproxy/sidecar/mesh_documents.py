"""The documents of the mesh as a sidecar has received them, parsed and checked by the control plane.

A set is never changed: the next one shares with it what has stayed the same, so a change costs what has changed. What
cannot be used is part of a set, too, with the reason: the next change may mend it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from meshproxy.config import schema
from meshproxy.config.accounts import bindings_with_numbers, routes_with_numbers
from meshproxy.config.codes import Code
from meshproxy.config.own_host import in_folder, misfits
from meshproxy.config.problems import ConfigError, Problem
from meshproxy.config.sent import SentKind, Total, decode, digest, encode, key_of
from meshproxy.config.values import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from meshproxy.config.schema import Documents, Sidecar
    from meshproxy.control_api import DocumentSet, SentDocument

SLICE = 200
"""Documents that are decoded before other work has its turn: 4 ms."""


class NotAsSent(Exception):
    """A set does not have the version that it should have: it must be sent again, whole."""


@dataclass(frozen=True, slots=True)
class _Item:
    """One document."""

    order: str
    digest: int
    document: SentKind | None
    """None: it cannot be used."""
    problem: str = ""


class KeptDocument(msgspec.Struct, frozen=True):
    """One document as it is kept on disk."""

    order: str
    digest: str
    """In hexadecimal, of what the control plane sent: another version of the software may write the document in another
    way."""
    document: msgspec.Raw


class KeptSet(msgspec.Struct, frozen=True):
    """A set as it is kept on disk."""

    version: str
    documents: tuple[KeptDocument, ...]
    server: str | None = None


class MeshDocuments:
    """One set.

    Attributes:
        version: as the control plane named it.
        server: the ModelServer of the inbound port that it was selected for; empty: for none; None: not known.
    """

    def __init__(self, items: Mapping[str, _Item], total: Total, server: str | None = None) -> None:
        self._items = items
        self._total = total
        self.server = server

    @property
    def version(self) -> str:
        return self._total.version

    @classmethod
    async def received(cls, message: DocumentSet, base: MeshDocuments | None, folder: Path) -> MeshDocuments:
        """The set after a message.

        Args:
            base: the set that it changes, if it does not bring everything.
            folder: where relative paths start.

        Raises:
            NotAsSent: it does not fit together.
        """
        items: dict[str, _Item] = {}
        total, server = Total(), message.server
        if message.base:
            if base is None or base.version != message.base:
                raise NotAsSent("a change of documents that this sidecar does not have")
            items, total = dict(base._items), base._total
            server = base.server if server is None else server
        changes: list[tuple[str, _Item | None]] = [(key, None) for key in message.removed]
        for place, sent in enumerate(message.documents):
            if place % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            changes.append(_read(sent, digest(sent), folder))
        for key, item in changes:
            before = items.pop(key, None)
            total = total.changed(item.digest if item else 0, before.digest if before else 0)
            if item is not None:
                items[key] = item
        if total.version != message.version:
            raise NotAsSent("the documents are not those of the version that was sent")
        return cls(items, total, server)

    def together_with(self, sidecar: Sidecar, fingerprint: str) -> Documents:
        """The documents of this sidecar.

        Args:
            fingerprint: of its own document and this set.

        Raises:
            ConfigError: a document cannot be used, they do not go together, or they were selected for another server:
                what was left out may be roles of this one, and without roles everybody may call.
        """
        problems = [
            Problem("", 0, key, "", item.problem, Code.UNREADABLE) for key, item in self._items.items() if item.problem
        ]
        inbound = sidecar.spec.inbound
        if inbound is not None and self.server not in (None, inbound.server):
            message = (
                f"the documents at hand were selected for {shown(self.server) if self.server else 'no inbound port'}: "
                f"those for {shown(inbound.server)} have not come from the control plane yet"
            )
            where = f"Sidecar/{sidecar.metadata.name}"
            problems.append(Problem("", 0, where, "spec.inbound.server", message, Code.MISSING_DOCUMENT))
        items = sorted(self._items.values(), key=_order)

        def of(kind: type[Any]) -> tuple[Any, ...]:
            return tuple(item.document for item in items if isinstance(item.document, kind))

        meshes, servers, routes = of(schema.MeshConfig), of(schema.ModelServer), of(schema.ModelRoute)
        if not problems and len(meshes) != 1:
            problems.append(Problem("", 0, "", "", "there is no MeshConfig", Code.MISSING_DOCUMENT))
        if not problems:
            problems.extend(misfits(sidecar, meshes[0], servers, routes))
        if problems:
            raise ConfigError(tuple(sorted(problems)))
        accounts = meshes[0].spec.aws.accounts
        return schema.Documents(
            mesh=meshes[0],
            sidecar=sidecar,
            roles=of(schema.ModelRole),
            bindings=bindings_with_numbers(of(schema.ModelRoleBinding), accounts),
            servers=servers,
            routes=routes_with_numbers(routes, accounts),
            rollouts=of(schema.ModelRollout),
            fingerprint=fingerprint,
        )

    # On disk

    def keep(self) -> bytes:
        """The set, of which all documents can be used, as it is kept."""
        kept = tuple(
            KeptDocument(item.order, f"{item.digest:064x}", encode(item.document, item.order).document)
            for item in self._items.values()
            if item.document is not None
        )
        return msgspec.json.encode(KeptSet(self.version, kept, self.server))

    @classmethod
    def kept(cls, content: bytes, folder: Path) -> MeshDocuments:
        """The inverse of `keep`. Raises NotAsSent."""
        try:
            read = msgspec.json.decode(content, type=KeptSet)
            items = dict(_read(each, int(each.digest, 16), folder) for each in read.documents)
        except ValueError as error:
            raise NotAsSent(f"the documents that were kept are not understood: {error}") from error
        total = Total(sum(item.digest for item in items.values()))
        if total.version != read.version:
            raise NotAsSent("the documents that were kept are not complete")
        return cls(items, total, read.server)


def _order(item: _Item) -> str:
    return item.order


def _read(sent: SentDocument | KeptDocument, digest: int, folder: Path) -> tuple[str, _Item]:
    """Its key, and the document."""
    try:
        document = in_folder(decode(sent.document), folder)
    except ValueError as error:  # msgspec.DecodeError is one
        return _key_in(sent.document), _Item(sent.order, digest, None, str(error))
    return key_of(document), _Item(sent.order, digest, document)


class _Named(msgspec.Struct):
    kind: str
    metadata: dict[str, Any]


def _key_in(document: msgspec.Raw) -> str:
    """What a document that cannot be used is called. Raises NotAsSent if it is none at all."""
    try:
        found = msgspec.json.decode(document, type=_Named)
    except msgspec.DecodeError as error:
        raise NotAsSent(f"what was sent is no document: {error}") from error
    return f"{found.kind}/{found.metadata.get('name')}"
