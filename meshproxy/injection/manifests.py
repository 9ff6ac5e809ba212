"""Files of Kubernetes objects, with the sidecar put in or taken out. All other bytes stay as they are."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import yaml

from meshproxy.config.nodes import LOADER
from meshproxy.injection.inject import Injected, Refused, Skipped, inject
from meshproxy.injection.objects import PodPlace, pods_in
from meshproxy.injection.pod import Owner
from meshproxy.injection.uninject import uninject
from meshproxy.injection.yaml_edit import CannotEdit, YamlDocument, said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from meshproxy.injection import draft
    from meshproxy.injection.draft import Operation
    from meshproxy.injection.objects import Path
    from meshproxy.injection.settings import Settings

_BYTE_ORDER_MARK = "\ufeff"
_LISTS = ("containers", "initContainers", "volumes")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one pod, or template of pods."""

    where: str
    """`Kind/name`."""
    result: Injected | Skipped | Refused


def inject_text(text: str, namespace: str, settings: Settings) -> tuple[str, list[Outcome]]:
    """The objects with sidecars, and what became of each pod.

    Args:
        text: documents of YAML or JSON.
        namespace: of objects that name none.

    Raises:
        CannotEdit: the text cannot be read, or is written in a way that this does not change.
    """
    outcomes: list[Outcome] = []

    def change(document: YamlDocument, place: PodPlace) -> None:
        result = inject(
            place.content,
            place.namespace or namespace,
            settings,
            owner=Owner(place.kind, place.name),
            text_of=lambda path: document.slice((*place.path, *_indexes(place.content, path))),
        )
        outcomes.append(Outcome(_called(place), result))
        if isinstance(result, Injected):
            _edit(document, place.path, [(operation, None) for operation in result.patch])
            _check(document, place, result.pod)

    return _each_pod(text, change), outcomes


def uninject_text(text: str) -> tuple[str, list[str]]:
    """The objects without sidecars, and which of them had one. Raises CannotEdit."""
    changed: list[str] = []

    def change(document: YamlDocument, place: PodPlace) -> None:
        try:
            result = uninject(place.content)
        except ValueError as error:
            raise CannotEdit(str(error)) from error
        if result is not None:
            _edit(document, place.path, result.steps)
            _check(document, place, result.pod)
            changed.append(_called(place))

    return _each_pod(text, change), changed


def _each_pod(text: str, change: Callable[[YamlDocument, PodPlace], None]) -> str:
    mark = _BYTE_ORDER_MARK if text.startswith(_BYTE_ORDER_MARK) else ""
    written = []
    for part in _split(text.removeprefix(mark)):
        document = YamlDocument(part)
        content = document.content()
        if not isinstance(content, dict | None):
            raise CannotEdit(
                "expected objects of Kubernetes, which begin with apiVersion and kind; this is another text"
            )
        places = list(pods_in(content))
        for place in places:
            try:
                change(document, place)
            except CannotEdit as error:
                raise CannotEdit(f"{_called(place)}: {error}") from error
        written.append(document.text)
    return mark + "".join(written)


def _split(text: str) -> Iterator[str]:
    """The text of each document, which together are the whole."""
    try:
        events = yaml.parse(text, Loader=LOADER)
        marks = [event.start_mark for event in events if isinstance(event, yaml.DocumentStartEvent)]
    except (yaml.YAMLError, RecursionError) as error:
        raise CannotEdit(said(error)) from error
    starts = [mark.index for mark in marks[1:] if mark is not None]
    for start, end in pairwise([0, *starts, len(text)]):
        yield text[start:end]


def _edit(document: YamlDocument, at: Path, steps: Iterable[tuple[Operation, str | None]]) -> None:
    for operation, text in steps:
        path = (*at, *_steps(operation["path"]))
        if operation["op"] == "remove":
            document.remove(path)
        elif isinstance(path[-1], int):
            document.insert(path[:-1], operation["value"])
        else:
            document.put(path, operation["value"], text)


def _check(document: YamlDocument, place: PodPlace, expected: Any) -> None:
    """What was written is what was decided: whatever the text looks like."""
    found = document.content()
    for step in place.path:
        found = found[step]
    if found != expected:
        raise CannotEdit("it is written in a way that cannot be changed: write it in another way")


def _steps(pointer: str) -> Path:
    """The steps of a JSON pointer into a pod."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    return tuple(
        int(step) if place == 2 and steps[0] == "spec" and steps[1] in _LISTS else step
        for place, step in enumerate(steps)
    )


def _indexes(pod: Mapping[str, Any], path: draft.Path) -> Path:
    """A path with numbers in place of the names of containers."""
    if path[:2] != ("spec", "containers") or len(path) < 3:
        return path
    names = [each.get("name") for each in pod["spec"]["containers"]]
    return ("spec", "containers", names.index(path[2]), *path[3:])


def _called(place: PodPlace) -> str:
    return f"{place.kind}/{place.name}"
