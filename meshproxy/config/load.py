"""Files and folders -> `Documents`, or `ConfigError` with everything that is wrong with them.

Pure except for reading the given files: no clock, no state, no log. The result consists of frozen structs only, so it
can be built in a short-lived child process and sent over, which spares a sidecar the YAML parser.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from meshproxy.config import schema
from meshproxy.config.accounts import bindings_with_numbers, routes_with_numbers
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
    return _whole(*_read(paths), paths)


def load_own(paths: Paths) -> schema.Documents | schema.Sidecar:
    """What a sidecar starts from: all documents, as `load` gives them, or its Sidecar alone if the others come from its
    control plane.

    Raises:
        ConfigError: with all problems.
    """
    parsed, sources = _read(paths)
    sidecars = [each.document for each in parsed.placed if isinstance(each.document, schema.Sidecar)]
    control = sidecars[0].spec.control_plane if sidecars else None
    is_managed = control is not None and control.documents
    others = [each for each in parsed.placed if each.kind != "Sidecar"]
    if is_managed or (parsed.placed and not others):
        _check(parsed, paths, is_partial=True)
        for each in others:
            message = "the control plane sends these documents (spec.controlPlane.documents of the Sidecar)"
            parsed.problems.append(each.at(each.node, "", message, Code.CONFLICTING_FIELDS))
        parsed.raise_problems()  # without those of documents that may be elsewhere
    return sidecars[0] if is_managed else _whole(parsed, sources, paths)


def _read(paths: Paths) -> tuple[Parsed, list[Source]]:
    """The documents in the files and folders, with the problems of each by itself, and the files."""
    parsed = Parsed()
    sources = read_files(paths, parsed.problems)
    parsed.is_whole = not parsed.problems
    for source in sources:
        parse(source, parsed)
    return parsed, sources


def _check(parsed: Parsed, paths: Paths, *, is_partial: bool = False) -> None:
    """Add the problems of the set. `is_partial`: the rest of it is elsewhere (`check_set`)."""
    where = ", ".join(map(str, paths))
    found = check_set(parsed.placed, is_whole=parsed.is_whole, where=where, is_partial=is_partial)
    parsed.problems.extend(islice(found, PROBLEMS))


def _whole(parsed: Parsed, sources: Sequence[Source], paths: Paths) -> schema.Documents:
    """All documents of a set. Raises ConfigError with all problems."""
    _check(parsed, paths)
    parsed.raise_problems()
    return documents(parsed.placed, digest(sources))


def documents(placed: Sequence[Placed], fingerprint: str) -> schema.Documents:
    """The documents of a set without problems."""

    def of(kind: type[Any]) -> tuple[Any, ...]:
        return tuple(each.document for each in placed if isinstance(each.document, kind))

    mesh = of(schema.MeshConfig)[0]
    accounts = mesh.spec.aws.accounts
    return schema.Documents(
        mesh=mesh,
        sidecar=of(schema.Sidecar)[0],
        roles=of(schema.ModelRole),
        bindings=bindings_with_numbers(of(schema.ModelRoleBinding), accounts),
        servers=of(schema.ModelServer),
        routes=routes_with_numbers(of(schema.ModelRoute), accounts),
        rollouts=of(schema.ModelRollout),
        fingerprint=fingerprint,
    )
