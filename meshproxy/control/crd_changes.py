"""What becomes of a CustomResourceDefinition of ours that is in a cluster, when that of this release is applied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from meshproxy.config.crds import RELEASE_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_INSIDE = (("items", "[]"), ("additionalProperties", ".*"))
"""Schemas in a schema, and how paths say so."""


class _Names(Struct, frozen=True, rename="camel"):
    name: str
    labels: dict[str, str] | None = None
    deletion_timestamp: str | None = None


class _Schema(Struct, frozen=True):
    whole: dict[str, Any] = field(default_factory=dict, name="openAPIV3Schema")


class _Version(Struct, frozen=True):
    name: str
    schema: _Schema = _Schema()


class _Spec(Struct, frozen=True):
    scope: str
    versions: list[_Version]


class _Status(Struct, frozen=True, rename="camel"):
    stored_versions: list[str] | None = None


class Definition(Struct, frozen=True):
    """What is read of a CustomResourceDefinition."""

    metadata: _Names
    spec: _Spec
    status: _Status = _Status()


@dataclass(frozen=True, slots=True)
class CrdChanges:
    """What is told apart.

    Attributes:
        blocking: why it cannot be applied, or must not.
        lost: fields that objects may have now, and the API server would drop.
        is_different: the schema is another one.
        release: that the live one is labelled with; empty: with none.
        hint: what to do about what is blocking.
    """

    blocking: tuple[str, ...]
    lost: tuple[str, ...]
    is_different: bool
    release: str
    hint: str = ""


def changes_of(live: Definition, ours: Definition) -> CrdChanges:
    """Compare the definition that an API server has with the one to apply.

    https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definition-versioning/
    """
    name = ours.metadata.name
    blocking, hint = [], ""
    if live.metadata.deletion_timestamp is not None:
        blocking.append("it is being deleted, with all objects of it")
        hint = "wait until it is gone, and keep what you need: kubectl get meshproxy -A -o yaml"
    if live.spec.scope != ours.spec.scope:
        blocking.append(f"its scope is {live.spec.scope}, which cannot be changed")
        hint = f"keep its objects, and delete it: kubectl delete crd {name}"
    versions = {each.name: each.schema.whole for each in ours.spec.versions}
    if gone := [each for each in live.status.stored_versions or () if each not in versions]:
        blocking.append(f"objects are stored as {', '.join(gone)}, which this release does not have")
        hint = "rewrite each object with a release that has both versions, then take the old one out of"
        hint += f" status.storedVersions of {name}"
    both = [(each.schema.whole, versions[each.name]) for each in live.spec.versions if each.name in versions]
    return CrdChanges(
        tuple(blocking),
        tuple(path for before, after in both for path in _lost(before, after, "")),
        any(before != after for before, after in both),
        (live.metadata.labels or {}).get(RELEASE_LABEL, ""),
        hint,
    )


def _lost(before: Mapping[str, Any], after: Mapping[str, Any], path: str) -> Iterator[str]:
    """The fields of one schema that another one does not let through."""
    if after.get("x-kubernetes-preserve-unknown-fields"):
        return
    known = after.get("properties") or {}
    for name, schema in (before.get("properties") or {}).items():
        here = f"{path}.{name}" if path else name
        if name in known:
            yield from _lost(schema, known[name], here)
        elif not isinstance(after.get("additionalProperties"), dict):
            yield here
    for member, shown in _INSIDE:
        one, other = before.get(member), after.get(member)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _lost(one, other, path + shown)
