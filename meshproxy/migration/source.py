"""Documents to translate: their values with the lines, and which of them have been read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from meshproxy.config.codes import Code
from meshproxy.config.fields import API_VERSION
from meshproxy.config.nodes import BROKEN, Node, Unreadable, read_documents
from meshproxy.config.problems import ConfigError, Problem

Document = dict[str, Any]


class Kind(Enum):
    """What a note says of a field."""

    LEFT_OUT = "has no counterpart"
    DIFFERENT = "means something else here"
    NARROWER = "allows less"
    WIDER = "allows more"
    REFUSED = "is not translated"


@dataclass(frozen=True, slots=True)
class Note:
    """What a reader has to know of one field."""

    file: str
    line: int
    document: str
    field: str
    kind: Kind
    why: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: {self.document}"
        return f"{place}: {self.field}: {self.kind.value}{': ' + self.why if self.why else ''}"


@dataclass(slots=True)
class Translation:
    """What has come of some documents."""

    documents: list[Document] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def add(self, kind: str, name: str, spec: Mapping[str, Any]) -> None:
        """A document of ours, without fields that are None or empty."""
        made = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": without_nothing(spec)}
        if made not in self.documents:
            self.documents.append(made)


def without_nothing(value: Any) -> Any:
    """Mappings without members that are None, or empty."""
    if isinstance(value, Mapping):
        kept = {name: without_nothing(item) for name, item in value.items()}
        return {name: item for name, item in kept.items() if item is not None and item not in ({}, [])}
    return [without_nothing(item) for item in value] if isinstance(value, list) else value


class Source:
    """A mapping of a document. What is read of it is remembered."""

    def __init__(self, node: Node, path: str, file: str, document: str, translation: Translation) -> None:
        self._node = node
        self.path = path
        self._file = file
        self._document = document
        self._translation = translation
        self._read: set[str] = set()
        self._children: list[Source] = []
        self._given: dict[str, Node] = node.value if isinstance(node.value, dict) else {}

    @property
    def name(self) -> str:
        """`metadata.name` of a document."""
        return self._of_metadata("name")

    @property
    def namespace(self) -> str:
        """`metadata.namespace`; empty: it names none."""
        return self._of_metadata("namespace")

    def _of_metadata(self, name: str) -> str:
        metadata = self._given.get("metadata")
        found = metadata.value.get(name) if metadata is not None and isinstance(metadata.value, dict) else None
        return str(found.value) if found is not None else ""

    @property
    def names(self) -> list[str]:
        """The fields that are there."""
        return list(self._given)

    def has(self, name: str) -> bool:
        return name in self._given

    def has_any(self, part: str, *names: str) -> bool:
        """Whether a mapping in it has one of these. They do not count as read."""
        node = self._given.get(part)
        return node is not None and isinstance(node.value, dict) and any(name in node.value for name in names)

    def read_all(self) -> None:
        """The whole is dealt with: nothing in it is noted any more."""
        self._read.update(self._given)
        self._children.clear()

    def value(self, name: str) -> Any:
        """A value, as JSON would have it; None: it is not there."""
        self._read.add(name)
        return plain(self._given[name]) if name in self._given else None

    def texts(self, name: str) -> list[str]:
        """A list of texts; empty: it is not there."""
        found = self.value(name)
        return [str(each) for each in found] if isinstance(found, list) else []

    def part(self, name: str) -> Source | None:
        """A mapping; None: it is not there."""
        node = self._given.get(name)
        if node is None or not isinstance(node.value, dict):
            return None
        self._read.add(name)
        return self._child(node, name)

    def parts(self, name: str) -> list[Source]:
        """A list of mappings; empty: it is not there."""
        node = self._given.get(name)
        if node is None or not isinstance(node.value, list):
            return []
        self._read.add(name)
        return [self._child(item, f"{name}[{index}]") for index, item in enumerate(node.value)]

    def _child(self, node: Node, name: str) -> Source:
        path = f"{self.path}.{name}" if self.path else name
        child = Source(node, path, self._file, self._document, self._translation)
        self._children.append(child)
        return child

    def note(self, name: str, kind: Kind, why: str = "") -> None:
        """Say something of a field, or of the whole (empty)."""
        if name:
            self._read.add(name)
        line = self._given[name].key_line if name in self._given else self._node.line
        path = ".".join(filter(None, (self.path, name)))
        note = Note(self._file, line, self._document, path or "the document", kind, why)
        if note not in self._translation.notes:
            self._translation.notes.append(note)

    def finish(self, reasons: Mapping[str, str]) -> None:
        """Note every field that was not read. `reasons`: what to add, by the name of the field."""
        for name in self._given:
            if name not in self._read:
                self.note(name, Kind.LEFT_OUT, reasons.get(name, ""))
        for child in self._children:
            child.finish(reasons)


def plain(node: Node) -> Any:
    """The value without lines."""
    if isinstance(node.value, dict):
        return {name: plain(item) for name, item in node.value.items()}
    if isinstance(node.value, list):
        return [plain(item) for item in node.value]
    return None if node.value is BROKEN else node.value


def read_sources(file: str, content: bytes, translation: Translation) -> Iterator[tuple[str, str, Source]]:
    """`apiVersion`, kind and whole of each document of a file, those in a `List` too.

    Raises:
        ConfigError: it cannot be read, or is ambiguous YAML.
    """
    problems: list[Problem] = []

    def report(line: int, path: str, message: str, code: Code) -> None:
        problems.append(Problem(file, line, "", path, message, code))

    found: list[Node] = []
    try:
        for node in read_documents(content.decode("utf-8-sig"), report, numbers_are_keys=True):
            found += _listed(node)
    except Unreadable as error:
        report(error.line, "", error.message, error.code)
    except UnicodeDecodeError:
        report(0, "", "not UTF-8", Code.UNREADABLE)
    if problems:
        raise ConfigError(tuple(sorted(problems)))
    for node in found:
        version, kind = (str(_member(node, name) or "") for name in ("apiVersion", "kind"))
        metadata = node.value.get("metadata") if isinstance(node.value, dict) else None
        name = str((_member(metadata, "name") if metadata is not None else None) or "")
        source = Source(node, "", file, f"{kind}/{name}", translation)
        for known in ("apiVersion", "kind", "metadata", "status"):
            source.value(known)
        yield version, kind, source


def _listed(node: Node) -> list[Node]:
    if _member(node, "kind") == "List" and isinstance(node.value, dict) and "items" in node.value:
        items = node.value["items"].value
        return items if isinstance(items, list) else []
    return [node]


def _member(node: Node, name: str) -> object:
    return node.value[name].value if isinstance(node.value, dict) and name in node.value else None
