"""Files and folders -> `Documents`, or `ConfigError` with everything that is wrong with them.

Pure except for reading the given files: no clock, no state, no log. The result consists of frozen structs only, so it
can be built in a short-lived child process and sent over, which spares a sidecar the YAML parser.
"""

from __future__ import annotations

from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from msgspec import inspect

from meshproxy.config import schema
from meshproxy.config.check import Placed, check_set
from meshproxy.config.fields import API_VERSION
from meshproxy.config.files import Paths, Source, digest, read_files
from meshproxy.config.problems import ConfigError, Problem, closest
from meshproxy.config.values import read_name, shown
from meshproxy.config.warnings import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meshproxy.config.nodes import Node, Report

PROBLEMS = 1_000
"""The most that are reported of one file: a hostile file must not be able to demand an endless list."""

SERVER_METADATA = frozenset(
    {
        "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generateName",
        "generation", "managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid",
    }
)  # fmt: skip
"""Fields of `metadata` that the API server of Kubernetes writes (ObjectMeta of `meta/v1`). They are ignored."""


def load(paths: Paths) -> schema.Documents:
    """All documents in the files and folders, checked as a whole. Raises ConfigError with all problems."""
    documents, _ = _load(paths)
    return documents


def examine(paths: Paths) -> tuple[schema.Documents, tuple[Problem, ...]]:
    """All documents as `load` gives them, and what is suspicious about them. Raises ConfigError."""
    documents, placed = _load(paths)
    return documents, tuple(islice(warn(placed), PROBLEMS))


def _load(paths: Paths) -> tuple[schema.Documents, list[Placed]]:
    """The documents, and where each stands.

    A folder selects its `*.yaml`, `*.yml` and `*.json` (see `read_files`). A JWK set among them is skipped: key sets
    often lie beside the documents that name them.

    Raises:
        ConfigError: with all problems. Nothing else is raised, whatever the files contain.
    """
    found: list[Problem] = []
    sources = read_files(paths, found)
    is_whole = not found
    placed: list[Placed] = []
    for source in sources:
        is_whole &= _parse(source, placed, found)
    found.extend(islice(check_set(placed, is_whole=is_whole, where=", ".join(map(str, paths))), PROBLEMS))
    if found:
        raise ConfigError(tuple(sorted(found)))

    def of(kind: type[Any]) -> tuple[Any, ...]:
        return tuple(each.document for each in placed if isinstance(each.document, kind))

    documents = schema.Documents(
        mesh=of(schema.MeshConfig)[0],
        sidecar=of(schema.Sidecar)[0],
        roles=of(schema.ModelRole),
        bindings=of(schema.ModelRoleBinding),
        servers=of(schema.ModelServer),
        routes=of(schema.ModelRoute),
        fingerprint=digest(sources),
    )
    return documents, placed


def _parse(source: Source, placed: list[Placed], problems: list[Problem]) -> bool:
    """Add the documents of a file to `placed` and their problems to `problems`. False if not all could be read."""
    from meshproxy.config.nodes import Unreadable, read_documents

    label = ""
    noted: list[tuple[int, str, str]] = []
    last = len(problems) + PROBLEMS

    def note(line: int, field: str, message: str) -> None:
        if len(problems) + len(noted) == last:
            raise Unreadable(line, f"{PROBLEMS:,} problems in this file; the rest was not checked")
        noted.append((line, field, message))

    def settle() -> None:
        problems.extend(Problem(str(source.path), line, label, field, message) for line, field, message in noted)
        noted.clear()

    try:
        text = source.content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.content.count(b"\n", 0, error.start) + 1
        problems.append(Problem(str(source.path), line, "", "", "not UTF-8"))
        return False
    try:
        for number, whole in enumerate(read_documents(text, note), 1):
            if not source.is_named and _is_key_set(whole):
                noted.clear()
                continue
            label = f"document {number}"
            for where, node in _documents_of(whole, label, note, settle):
                kind, name = _kind_and_name(node)
                label = f"{kind}/{name}" if kind and name else kind or where
                document = _document(_without_status(node), source.folder, note)
                settle()
                if kind in _kinds() and name:
                    placed.append(Placed(kind, name, str(source.path), node, document))
            label = f"document {number + 1}"
    except Unreadable as error:
        settle()
        problems.append(Problem(str(source.path), error.line, "", "", error.message))
        return False
    return True


def _document(node: Node, folder: Path, report: Report) -> Any:
    """The struct, or None if the document has problems."""
    from meshproxy.config.convert import convert
    from meshproxy.config.nodes import BROKEN

    if node.value is BROKEN:
        return None
    if not isinstance(node.value, dict):
        report(node.line, "", f"expected a document (apiVersion, kind, metadata, spec), got {shown(node.value)}")
        return None
    version, kind = node.value.get("apiVersion"), node.value.get("kind")
    if version is None:
        report(node.line, "apiVersion", f"is missing: expected {API_VERSION}")
    elif version.value != API_VERSION and version.value is not BROKEN:
        report(version.line, "apiVersion", f'expected "{API_VERSION}", got {shown(version.value)}')
        if not str(version.value).startswith("meshproxy.dev/"):
            return None  # A document of another application: every field would be reported as unknown.
    if kind is None:
        report(node.line, "kind", f"is missing: expected one of {', '.join(_kinds())}")
    elif isinstance(kind.value, str) and kind.value in _kinds():
        document = convert(node, _kinds()[kind.value], folder, report)
        return None if document is BROKEN or version is None or version.value != API_VERSION else document
    elif kind.value is not BROKEN:
        hint = closest(kind.value, list(_kinds())) if isinstance(kind.value, str) else ""
        report(kind.line, "kind", f"{shown(kind.value)} is not a kind: expected one of {', '.join(_kinds())}{hint}")
    return None


def _is_list(node: Node) -> bool:
    """A list of documents: `List`, as `kubectl get -o yaml` prints several, or `ModelRoleList` and the like, as the API
    server does."""
    document = node.value if isinstance(node.value, dict) else {}
    kind, version = document.get("kind"), document.get("apiVersion")
    if kind is None or version is None or not isinstance(kind.value, str):
        return False
    return (kind.value == "List" and version.value == "v1") or (
        kind.value.removesuffix("List") in _kinds() and kind.value.endswith("List") and version.value == API_VERSION
    )


def _documents_of(node: Node, where: str, report: Report, settle: Callable[[], None]) -> Iterator[tuple[str, Node]]:
    """The documents of a list, or the only one, each with what to call it as long as it has no name."""
    if not _is_list(node):
        yield where, node
        return
    items = _list_items(node, report)
    settle()  # what is wrong with the list itself is not its first item's
    for place, item in enumerate(items, 1):
        yield f"{where}, item {place}", item


def _list_items(node: Node, report: Report) -> list[Node]:
    from meshproxy.config.nodes import BROKEN

    document = node.value
    assert isinstance(document, dict)
    for name in document.keys() - {"apiVersion", "kind", "metadata", "items"}:
        report(document[name].key_line, name, f"no such field{closest(name, ['metadata', 'items'])}")
    found = document.get("items")
    if found is None:
        report(node.line, "items", "is missing: expected a list of documents")
        return []
    if not isinstance(found.value, list):
        if found.value is not BROKEN:
            report(found.line, "items", f"expected a list of documents, got {shown(found.value)}")
        return []
    return found.value


def _without_status(node: Node) -> Node:
    """The document without what the API server of Kubernetes adds to it, which `kubectl get -o yaml` prints."""
    if not isinstance(node.value, dict):
        return node
    document = {name: item for name, item in node.value.items() if name != "status"}
    metadata = document.get("metadata")
    if metadata is not None and isinstance(metadata.value, dict):
        kept = {name: item for name, item in metadata.value.items() if name not in SERVER_METADATA}
        document["metadata"] = _replaced(metadata, kept)
    return _replaced(node, document)


def _replaced(node: Node, value: dict[str, Node]) -> Node:
    from meshproxy.config.nodes import Node

    replaced = Node(value, node.line, node.size)
    replaced.key_line = node.key_line
    return replaced


def _kind_and_name(node: Node) -> tuple[str, str]:
    """Kind and name as far as they can be read, otherwise empty."""
    document = node.value if isinstance(node.value, dict) else {}
    kind, metadata = document.get("kind"), document.get("metadata")
    name = metadata.value.get("name") if metadata is not None and isinstance(metadata.value, dict) else None
    try:
        readable = read_name(name.value) if name is not None else ""
    except ValueError:
        readable = ""
    return kind.value if kind is not None and kind.value in _kinds() else "", readable


def _is_key_set(node: Node) -> bool:
    """A JWK set (RFC 7517 section 5), and not a document of ours with a typing error."""
    document = node.value
    return (
        isinstance(document, dict)
        and not {"apiVersion", "kind", "metadata", "spec"} & document.keys()
        and "keys" in document
        and isinstance(document["keys"].value, list)
    )


@cache
def _kinds() -> dict[str, inspect.StructType]:
    """Every kind by name, as msgspec describes it."""
    described = inspect.multi_type_info(schema.KINDS)
    return {kind.__name__: info for kind, info in zip(schema.KINDS, described, strict=True)}  # type: ignore[misc]
