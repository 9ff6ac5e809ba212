"""Pods in objects of Kubernetes: the object itself, its template, or those of a list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]

_TEMPLATES: dict[str, Path] = {
    "Pod": (),
    "PodTemplate": ("template",),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
_GROUPS = ("v1", "apps/v1", "batch/v1")


@dataclass(frozen=True, slots=True)
class PodPlace:
    """A pod or the template of one."""

    path: Path
    """Where it is in the document."""
    content: dict[str, Any]
    kind: str
    """Of the object that makes such pods."""
    name: str
    """Of that object."""
    namespace: str
    """Empty if the object names none."""


def pods_in(document: Any, path: Path = ()) -> Iterator[PodPlace]:
    """Every pod of a document. What is not made as Kubernetes makes it has none."""
    if not isinstance(document, dict):
        return
    kind, items = document.get("kind"), document.get("items")
    if isinstance(kind, str) and kind.endswith("List") and isinstance(items, list):
        for place, item in enumerate(items):
            if not isinstance(item, dict) or item.get("kind") != kind:  # no lists of lists
                yield from pods_in(item, (*path, "items", place))
        return
    version = document.get("apiVersion")
    if not isinstance(kind, str) or kind not in _TEMPLATES or version not in _GROUPS:
        return
    content: Any = document
    for step in _TEMPLATES[kind]:
        content = content.get(step) if isinstance(content, dict) else None
    if isinstance(content, dict):
        metadata = document.get("metadata")
        named = metadata if isinstance(metadata, dict) else {}
        name = named.get("name") or named.get("generateName") or ""
        yield PodPlace((*path, *_TEMPLATES[kind]), content, kind, str(name), str(named.get("namespace") or ""))
