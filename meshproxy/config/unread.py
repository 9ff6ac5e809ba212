"""Documents that no sidecar reads, because of the name of their file: in folders, and in keys of ConfigMaps."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from meshproxy.config.codes import Code
from meshproxy.config.files import FILES, is_read
from meshproxy.config.problems import Problem
from meshproxy.config.values import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DOCUMENT = re.compile(r"""^[\s{]*"?apiVersion"?\s*:\s*["']?meshproxy\.dev/""", re.MULTILINE)
_COPY = re.compile(r"\.(?:ya?ml|json)[.~]", re.IGNORECASE)
"""`roles.yaml.disabled`, `roles.yaml~`: somebody means that it is not read."""
_TEXT = "```"
"""Of a description with examples, in Markdown."""
_BYTES = 1 << 16
"""A document that begins later in such a file is not found."""


def why_unread(name: str, text: str) -> str | None:
    """What to say of a file that is not read although it holds documents; None of any other."""
    if is_read(name) or _COPY.search(name) or _TEXT in text or not _DOCUMENT.search(text):
        return None
    other = name.lstrip(".")
    other = other if is_read(other) else f"{other}.yaml"
    return (
        "is not read, since files of documents end with .yaml, .yml or .json and do not begin with a dot: "
        f"call it {shown(other)}"
    )


def warn_of_unread(paths: Sequence[str]) -> Iterator[Problem]:
    """Files of the folders among `paths` that hold documents and are not read."""
    for folder in map(Path, paths):
        for path in _not_read(folder):
            try:
                with path.open("rb") as file:
                    text = file.read(_BYTES).decode(errors="replace")
            except OSError:
                continue
            if (message := why_unread(path.name, text)) is not None:
                yield Problem(str(path), 0, "", "", message, Code.UNREAD_NAME)


def _not_read(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            # os.path: it never raises, also for a link that cannot be followed
            found = [Path(each) for each in entries if not is_read(each.name) and os.path.isfile(each)]  # noqa: PTH113
    except OSError:  # a file, or a folder that is gone
        return []
    return sorted(found)[:FILES]
