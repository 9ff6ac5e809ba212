"""Documents on their way from the control plane to sidecars: each as JSON, so that a change costs what has changed.

The control plane has parsed and checked them. A sidecar decodes them into the same structs, which checks types and what
belongs together once more, and needs neither the YAML parser nor a process of its own for it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from msgspec.structs import replace

from meshproxy.config.fields import Metadata
from meshproxy.config.schema import MeshConfig, ModelRole, ModelRoleBinding, ModelRollout, ModelRoute, ModelServer
from meshproxy.control_api import SentDocument

SentKind = MeshConfig | ModelRole | ModelRoleBinding | ModelServer | ModelRoute | ModelRollout

_decoder = msgspec.json.Decoder(SentKind)


def encode(document: SentKind, order: str) -> SentDocument:
    """The document as it is sent: what is for people stays behind. `order`: see `SentDocument`."""
    named = replace(document, metadata=Metadata(document.metadata.name))
    return SentDocument(order, msgspec.Raw(msgspec.json.encode(named)))


def decode(document: msgspec.Raw) -> SentKind:
    """The inverse of `encode`. Raises msgspec.DecodeError."""
    return _decoder.decode(document)


def key_of(document: Any) -> str:
    """What tells the documents of a set apart: `Kind/name`."""
    return f"{type(document).__name__}/{document.metadata.name}"


def digest(sent: SentDocument) -> int:
    """A number of 256 bits, another one for everything that differs."""
    return int.from_bytes(hashlib.sha256(b"%b\0%b" % (sent.order.encode(), bytes(sent.document))).digest(), "big")


class Total:
    """The version of a set: the sum of the digests of its documents. It does not depend on how the set came about, and
    a change costs as much as what changes.

    It tells sets apart that were written by people who may write them. It would not withstand someone who makes up
    thousands of documents in order to find two sets with one sum (Wagner's generalised birthday problem).
    """

    __slots__ = ("_sum",)

    def __init__(self, total: int = 0) -> None:
        self._sum = total % (1 << 256)

    def changed(self, added: int, removed: int = 0) -> Total:
        """With a document that has the digest `added`, in place of the one that has `removed`; 0 for none."""
        return Total(self._sum + added - removed)

    @property
    def version(self) -> str:
        """64 hexadecimal digits."""
        return f"{self._sum:064x}"
