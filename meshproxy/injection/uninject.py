"""The pod without its sidecar: what `inject` has changed is taken back, as its record says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from meshproxy.injection.capture_container import CAPTURE
from meshproxy.injection.draft import Draft, Operation, Path
from meshproxy.injection.inject import DEFAULT_CONTAINER
from meshproxy.injection.pod import SIDECAR, read_pod
from meshproxy.injection.record import STATUS, Record, read_record
from meshproxy.injection.sidecar import CONFIGURATION, DOCUMENT, IDENTITY, TRUST_BUNDLE

_ANNOTATIONS: Path = ("metadata", "annotations")
_OURS = (DOCUMENT, TRUST_BUNDLE, STATUS)
_ELEMENTS: tuple[Path, ...] = (
    ("spec", "initContainers", SIDECAR),
    ("spec", "initContainers", CAPTURE),
    ("spec", "containers", SIDECAR),
    ("spec", "volumes", CONFIGURATION),
    ("spec", "volumes", IDENTITY),
)
_OF_CONTAINER = (
    ("readinessProbe",), ("livenessProbe",), ("startupProbe",), ("lifecycle",), ("lifecycle", "preStop"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Uninjected:
    """The pod as it was."""

    pod: Any
    steps: tuple[tuple[Operation, str | None], ...]
    """What leads there, and how a value was written."""


def uninject(content: object) -> Uninjected | None:
    """Take the sidecar out of a copy of a pod. None: no injector has put one in.

    Raises:
        ValueError: this is no pod, or its record is damaged.
    """
    pod = read_pod(content)
    if STATUS not in pod.annotations:
        return None
    try:
        record = read_record(pod.annotations[STATUS])
        before = [(path, text, None if text is None else yaml.safe_load(text)) for path, text in record.was]
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"the annotation {STATUS} is not as it was written: {error}") from error
    if strange := [path for path in (*record.made, *(path for path, _ in record.was)) if not _is_ours(path)]:
        raise ValueError(f"the annotation {STATUS} is not as it was written: it names {'.'.join(strange[0])}")
    draft, texts = Draft(content), dict[int, str]()
    was = {path for path, _ in record.was}
    for path, text, value in reversed(before):
        if draft.find(path[:-1]) is None or (text is None and draft.find(path) is None):
            continue  # what it was in is gone
        if text is None:
            draft.remove(path)
        else:
            texts[len(draft.patch)] = text
            draft.put(path, value)
    for path in _ELEMENTS:
        if path[:-1] not in was and draft.find(path) is not None:
            draft.remove(path[:-1] if len(draft.find(path[:-1])) == 1 else path)
    for path in record.made:
        if path[-1] == "lifecycle" and (found := draft.find(path)):
            draft.remove(path if set(found) == {"preStop"} else (*path, "preStop"))
    _remove_annotations(draft, record, was)
    return Uninjected(draft.pod, tuple((operation, texts.get(place)) for place, operation in enumerate(draft.patch)))


def _remove_annotations(draft: Draft, record: Record, was: set[Path]) -> None:
    annotations = draft.find(_ANNOTATIONS)
    if not annotations:
        return
    ours = [name for name in _OURS if name in annotations and ((*_ANNOTATIONS, name) not in was or name == STATUS)]
    if len(ours) < len(annotations):
        for name in ours:
            draft.remove((*_ANNOTATIONS, name))
    else:
        is_alone = ("metadata",) in record.made and set(draft.find(("metadata",))) == {"annotations"}
        draft.remove(("metadata",) if is_alone else _ANNOTATIONS)


def _is_ours(path: Path) -> bool:
    """`inject` changes this."""
    match path:
        case ("metadata",) | ("metadata", "annotations") | ("spec", "initContainers" | "volumes"):
            return True
        case ("spec", "terminationGracePeriodSeconds"):
            return True
        case ("metadata", "annotations", name):
            return name in (*_OURS, DEFAULT_CONTAINER)
        case ("spec", "containers", _, *rest):
            return tuple(rest) in _OF_CONTAINER
    return False
