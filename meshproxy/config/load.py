"""Files and folders -> `Documents`, or `ConfigError` with everything that is wrong with them.

Pure except for reading the given files: no clock, no state, no log. The result consists of frozen structs only, so it
can be built in a short-lived child process and sent over, which spares a sidecar the YAML parser.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from meshproxy.config import schema
from meshproxy.config.check import check_set
from meshproxy.config.codes import Code
from meshproxy.config.files import Paths, Source, digest, read_files
from meshproxy.config.parse import PROBLEMS, Parsed, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.config.check import Placed


def load(paths: Paths) -> schema.Documents:
    """All documents in the files and folders, checked as a whole.

    A folder selects its `*.yaml`, `*.yml` and `*.json` (see `read_files`). A JWK set among them is skipped: key sets
    often lie beside the documents that name them.

    Raises:
        ConfigError: with all problems. Nothing else is raised, whatever the files contain.
    """
    parsed, sources = parse_set(paths)
    parsed.raise_problems()
    return documents(parsed.placed, digest(sources))


def load_own(paths: Paths) -> schema.Documents | schema.Sidecar:
    """What a sidecar starts from: all documents, as `load` gives them, or its Sidecar alone if the others come from its
    control plane.

    Raises:
        ConfigError: with all problems.
    """
    parsed, _ = parse_set(paths, is_partial=True)
    sidecars = [each.document for each in parsed.placed if isinstance(each.document, schema.Sidecar)]
    control = sidecars[0].spec.control_plane if sidecars else None
    if control is None or not control.documents:
        if {each.kind for each in parsed.placed} == {"Sidecar"}:
            parsed.raise_problems()  # without those of documents that may be elsewhere
        return load(paths)
    for each in parsed.placed:
        if each.kind != "Sidecar":
            message = "the control plane sends these documents (spec.controlPlane.documents of the Sidecar)"
            parsed.problems.append(each.at(each.node, "", message, Code.CONFLICTING_FIELDS))
    parsed.raise_problems()
    return sidecars[0]


def parse_set(paths: Paths, *, is_partial: bool = False) -> tuple[Parsed, list[Source]]:
    """The documents in the files and folders with all of their problems, and the files.

    Args:
        is_partial: they are a part of a set (`check_set`).
    """
    parsed = Parsed()
    sources = read_files(paths, parsed.problems)
    parsed.is_whole = not parsed.problems
    for source in sources:
        parse(source, parsed)
    found = check_set(parsed.placed, is_whole=parsed.is_whole, where=named(paths), is_partial=is_partial)
    parsed.problems.extend(islice(found, PROBLEMS))
    return parsed, sources


def named(paths: Paths) -> str:
    """What to call a set in a problem that no file has."""
    return ", ".join(map(str, paths))


def documents(placed: Sequence[Placed], fingerprint: str) -> schema.Documents:
    """The documents of a set without problems."""

    def of(kind: type[Any]) -> tuple[Any, ...]:
        return tuple(each.document for each in placed if isinstance(each.document, kind))

    return schema.Documents(
        mesh=of(schema.MeshConfig)[0],
        sidecar=of(schema.Sidecar)[0],
        roles=of(schema.ModelRole),
        bindings=of(schema.ModelRoleBinding),
        servers=of(schema.ModelServer),
        routes=of(schema.ModelRoute),
        fingerprint=fingerprint,
    )
