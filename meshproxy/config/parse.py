"""The text of a file -> its documents, each with its place, and every problem of each.

Beside the documents themselves, a `List` of them is read, and what the API server of Kubernetes adds to them is left
out. Manifests (`among_others`) may hold other documents too, which are set aside, and ConfigMaps, whose files are read
as the sidecar that mounts them would.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import field, inspect
from msgspec.structs import replace

from meshproxy.config import schema
from meshproxy.config.check import Placed
from meshproxy.config.codes import Code
from meshproxy.config.config_map import files_of
from meshproxy.config.fields import API_VERSION
from meshproxy.config.files import is_read
from meshproxy.config.hints import is_of_another_mesh, of_kind
from meshproxy.config.problems import ConfigError, Problem, closest
from meshproxy.config.values import read_name, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meshproxy.config.files import Source
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


_KINDS = {kind.__name__: kind for kind in schema.KINDS}
GROUP = "meshproxy.dev/"
"""The beginning of every `apiVersion` of ours."""


class Parsed(msgspec.Struct):
    """What was read so far."""

    placed: list[Placed] = field(default_factory=list)
    """Documents whose kind and name could be read."""
    others: list[Placed] = field(default_factory=list)
    """Documents of other applications, with kind and name as they are written."""
    unread: list[Problem] = field(default_factory=list)
    """Warnings of keys of ConfigMaps that hold documents under a name that is not read."""
    problems: list[Problem] = field(default_factory=list)
    is_whole: bool = True
    """Every file was read to its end."""

    def raise_problems(self) -> None:
        """Raises ConfigError with all problems, if there are any."""
        if self.problems:
            raise ConfigError(tuple(sorted(self.problems)))


class _Origin(msgspec.Struct, frozen=True):
    """Where a text comes from, and how it is to be read."""

    file: str
    """As problems name it."""
    folder: Path
    """The folder that relative paths start from."""
    first_line: int = 1
    is_named: bool = True
    among_others: bool = False
    is_local: bool = True


def parse(source: Source, parsed: Parsed, *, among_others: bool = False) -> None:
    """Add the documents of a file, and their problems, to `parsed`.

    Args:
        among_others: documents of other applications are no problem, and ConfigMaps are looked into.
    """
    origin = _Origin(source.name, source.folder, 1, source.is_named, among_others, source.is_local)
    try:
        text = source.content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.content.count(b"\n", 0, error.start) + 1
        parsed.problems.append(Problem(origin.file, line, "", "", "not UTF-8", Code.UNREADABLE))
        parsed.is_whole = False
        return
    _Text(origin, parsed).read(text)


class _Text:
    """One text: a file, or a file inside a ConfigMap."""

    def __init__(self, origin: _Origin, parsed: Parsed) -> None:
        self._origin = origin
        self._parsed = parsed
        self._label = ""
        """Of the document that is being read."""
        self._noted: list[tuple[int, str, str, Code]] = []
        """Its problems."""
        self._last = len(parsed.problems) + PROBLEMS

    def read(self, text: str) -> None:
        from meshproxy.config.nodes import Unreadable, read_documents

        try:
            for number, whole in enumerate(read_documents(text, self._note, self._origin.first_line), 1):
                if not self._origin.is_named and (_is_key_set(whole) or _is_expectations(whole)):
                    self._noted.clear()
                    continue
                self._label = f"document {number}"
                for where, node in _documents_of(whole, self._label, self._note, self._settle):
                    self._one(where, node)
                self._label = f"document {number + 1}"
        except Unreadable as error:
            self._settle()
            problem = Problem(self._origin.file, error.line, "", "", error.message, error.code)
            self._parsed.problems.append(problem)
            self._parsed.is_whole = False

    def _one(self, where: str, node: Node) -> None:
        if self._origin.among_others and (other := _other(node)) is not None:
            self._noted.clear()
            version, kind, name = other
            if version == "v1" and kind == "ConfigMap" and self._config_map(node, name):
                return
            origin = self._origin
            self._parsed.others.append(Placed(kind, name, origin.file, node, version, is_local=origin.is_local))
            return
        kind, name = _kind_and_name(node)
        self._label = f"{kind}/{name}" if kind and name else kind or where
        document = _document(_without_status(node), self._origin.folder, self._note)
        self._settle()
        if kind in _KINDS and name:
            origin = self._origin
            self._parsed.placed.append(Placed(kind, name, origin.file, node, document, is_local=origin.is_local))

    def _config_map(self, node: Node, name: str) -> bool:
        """Read the files of a ConfigMap that a sidecar would read if it were mounted, and where one is ours those of
        others, too, which it would refuse. False: none is ours."""
        from meshproxy.config.unread import why_unread

        files = files_of(node)
        has_ours = any(is_read(file.name) and GROUP in file.text for file in files)
        has_unread = False
        for each in files:
            file, label = self._origin.file, f"ConfigMap/{name}"
            where = f"{each.field}.{each.name}"
            if not is_read(each.name):
                if GROUP in each.text and (message := why_unread(each.name, each.text)) is not None:
                    has_unread = True
                    problem = Problem(file, each.node.key_line, label, where, message, Code.UNREAD_NAME)
                    self._parsed.unread.append(problem)
            elif has_ours and each.problem:
                problem = Problem(file, each.node.key_line, label, where, each.problem, Code.UNREADABLE)
                self._parsed.problems.append(problem)
                self._parsed.is_whole = False
            elif has_ours:
                # Lines of a literal block are lines of the file; of any other form they are those of the text.
                is_literal = each.node.is_literal and each.field == "data"
                file, line = (file, each.node.line + 1) if is_literal else (self._inside(name, each.name), 1)
                origin = replace(self._origin, file=file, first_line=line, among_others=False, is_local=False)
                _Text(origin, self._parsed).read(each.text)
        return has_ours or has_unread

    def _inside(self, name: str, key: str) -> str:
        return f"{self._origin.file}#{name}/{key}"

    def _note(self, line: int, path: str, message: str, code: Code) -> None:
        from meshproxy.config.nodes import Unreadable

        if len(self._parsed.problems) + len(self._noted) == self._last:
            message = f"{PROBLEMS:,} problems in this file; the rest was not checked"
            raise Unreadable(line, message, Code.TOO_MANY_PROBLEMS)
        self._noted.append((line, path, message, code))

    def _settle(self) -> None:
        """The problems noted so far are of the document that is being read."""
        file, label = self._origin.file, self._label
        noted, self._noted = self._noted, []
        for line, path, message, code in noted:
            self._parsed.problems.append(Problem(file, line, label, path, message, code))


def _other(node: Node) -> tuple[str, str, str] | None:
    """`apiVersion`, kind and name of a document of another application; None for one of ours, also if it has typing
    errors."""
    document = node.value if isinstance(node.value, dict) else {}
    version, kind = (found.value if (found := document.get(name)) else None for name in ("apiVersion", "kind"))
    if not isinstance(version, str) or not isinstance(kind, str) or version.startswith(GROUP):
        return None
    if kind in _KINDS and not is_of_another_mesh(version, kind):
        return None
    metadata = document.get("metadata")
    name = metadata.value.get("name") if metadata is not None and isinstance(metadata.value, dict) else None
    return version, kind, str(name.value) if name is not None else ""


def _document(node: Node, folder: Path, report: Report) -> Any:
    """The struct, or None if the document has problems."""
    from meshproxy.config.convert import convert
    from meshproxy.config.nodes import BROKEN

    if node.value is BROKEN:
        return None
    if not isinstance(node.value, dict):
        message = f"expected a document (apiVersion, kind, metadata, spec), got {shown(node.value)}"
        report(node.line, "", message, Code.UNKNOWN_DOCUMENT)
        return None
    version, kind = node.value.get("apiVersion"), node.value.get("kind")
    if version is None and kind is None:
        message = f"is none of meshproxy: it has neither apiVersion ({API_VERSION}) nor kind ({', '.join(_KINDS)})"
        report(node.line, "", message, Code.UNKNOWN_DOCUMENT)
        return None
    if version is None:
        report(node.line, "apiVersion", f"is missing: expected {API_VERSION}", Code.UNKNOWN_DOCUMENT)
    elif version.value != API_VERSION and version.value is not BROKEN:
        message = f'expected "{API_VERSION}", got {shown(version.value)}'
        is_ours = str(version.value).startswith(GROUP)
        if not is_ours and kind is not None and isinstance(kind.value, str):
            message += of_kind(kind.value) or MOUNTED.get(kind.value, "")
        report(version.line, "apiVersion", message, Code.UNKNOWN_DOCUMENT)
        if not is_ours:
            return None  # A document of another application: every field would be reported as unknown.
    if kind is None:
        report(node.line, "kind", f"is missing: expected one of {', '.join(_KINDS)}", Code.UNKNOWN_DOCUMENT)
    elif isinstance(kind.value, str) and kind.value in _KINDS:
        document = convert(node, _described(kind.value), folder, report)
        return None if document is BROKEN or version is None or version.value != API_VERSION else document
    elif kind.value is not BROKEN:
        hint = of_kind(kind.value) or closest(kind.value, list(_KINDS)) if isinstance(kind.value, str) else ""
        message = f"{shown(kind.value)} is not a kind: expected one of {', '.join(_KINDS)}{hint}"
        report(kind.line, "kind", message, Code.UNKNOWN_DOCUMENT)
    return None


MOUNTED = {"ConfigMap": ": mount the ConfigMap as a volume, and name its folder: each key is a file there"}


def _is_list(node: Node) -> bool:
    """A list of documents: `List`, as `kubectl get -o yaml` prints several, or `ModelRoleList` and the like, as the API
    server does."""
    document = node.value if isinstance(node.value, dict) else {}
    kind, version = document.get("kind"), document.get("apiVersion")
    if kind is None or version is None or not isinstance(kind.value, str):
        return False
    return (kind.value == "List" and version.value == "v1") or (
        kind.value.removesuffix("List") in _KINDS and kind.value.endswith("List") and version.value == API_VERSION
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
        report(
            document[name].key_line, name, f"no such field{closest(name, ['metadata', 'items'])}", Code.UNKNOWN_FIELD
        )
    found = document.get("items")
    if found is None:
        report(node.line, "items", "is missing: expected a list of documents", Code.MISSING_FIELD)
        return []
    if not isinstance(found.value, list):
        if found.value is not BROKEN:
            report(found.line, "items", f"expected a list of documents, got {shown(found.value)}", Code.INVALID_VALUE)
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
    named = kind.value if kind is not None else None
    return named if isinstance(named, str) and named in _KINDS else "", readable


def _is_key_set(node: Node) -> bool:
    """A JWK set (RFC 7517 section 5), and not a document of ours with a typing error."""
    document = node.value
    return (
        isinstance(document, dict)
        and not {"apiVersion", "kind", "metadata", "spec"} & document.keys()
        and "keys" in document
        and isinstance(document["keys"].value, list)
    )


def _is_expectations(node: Node) -> bool:
    """Expectations of `meshproxy policy test`: they may lie beside the policy, and say nothing to a sidecar."""
    return isinstance(node.value, dict) and node.value.keys() == {"expectations"}


@cache
def _described(kind: str) -> inspect.StructType:
    """A kind as msgspec describes it."""
    described = inspect.type_info(_KINDS[kind])
    assert isinstance(described, inspect.StructType)
    return described
