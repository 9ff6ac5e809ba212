"""What an injection has changed, in an annotation of the pod, so that it can be taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from meshproxy import __version__
from meshproxy.injection.draft import Path

if TYPE_CHECKING:
    from meshproxy.injection.draft import Undo

STATUS = "sidecar.meshproxy.dev/status"


class Record(msgspec.Struct, frozen=True):
    """The content of the annotation."""

    version: str
    """Of the injector."""
    made: tuple[Path, ...]
    """Mappings and lists that were made to put something in."""
    was: tuple[tuple[Path, str | None], ...]
    """What was replaced, as YAML. None: there was nothing."""


def write_record(undo: Undo) -> str:
    """The text of the annotation."""
    return msgspec.json.encode(Record(__version__, tuple(undo.made), tuple(undo.was.items()))).decode()


def read_record(text: str) -> Record:
    """The inverse. Raises ValueError."""
    return msgspec.json.decode(text, type=Record)
