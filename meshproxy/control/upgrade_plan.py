"""What would change in a cluster if the objects of this release were applied: from answers to changes and dangers."""

from __future__ import annotations

import base64
import difflib
import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec

from meshproxy.config.crds import RELEASE_LABEL
from meshproxy.control.crd_changes import Definition, changes_of
from meshproxy.control.field_sets import LAST_APPLIED
from meshproxy.control.finding import Unknown, some
from meshproxy.control.fleet import Level, are_compatible
from meshproxy.injection.yaml_edit import as_block
from meshproxy.installation.kinds import kind_of
from meshproxy.installation.rights import NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meshproxy.installation.kinds import ObjectKind

    Object = Mapping[str, Any]

DEFINITION = "CustomResourceDefinition"
IDENTITY_FLAGS = ("--trust-domain", "--spiffe-id", "--authority-secret", "--namespace")
"""Arguments of the control plane that say who is who in the mesh."""
CONTEXT_LINES = 3
_ADDED_BY_THE_SERVER = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_TAG = re.compile(r":v?([0-9]+\.[0-9]+(?:\.[0-9A-Za-z.-]+)?)(?:@.*)?$")


class Action(Enum):
    """What would become of an object."""

    CREATE = "create"
    CHANGE = "change"
    UNCHANGED = "unchanged"
    LEFT_OVER = "left over"
    """It is of meshproxy, and not of this release with these options; applying does not delete it."""
    REFUSED = "refused"
    """The API server would not take it."""
    UNKNOWN = "not known"
    """It could not be looked at."""


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no such object yet."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The API server would not take it.

    Attributes:
        why: its words.
        live: what there is; None: nothing.
    """

    why: str
    live: Object | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """An object before and after, both as the API server has them."""

    live: Object
    after: Object


Answer = Absent | Applied | Refused | Unknown


@dataclass(frozen=True, slots=True)
class LeftOver:
    """An object of meshproxy that this release does not make."""

    kind: ObjectKind
    name: str
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one object.

    Attributes:
        kind: with its group, as kubectl names it.
        text: a unified diff of a change, or why there is none.
    """

    action: Action
    kind: str
    name: str
    namespace: str = ""
    text: str = ""

    @property
    def shown(self) -> str:
        """As kubectl takes it: `deployments.apps/NAME --namespace NAMESPACE`."""
        return f"{self.kind}/{self.name}" + (f" --namespace {self.namespace}" if self.namespace else "")


@dataclass(frozen=True, slots=True)
class Danger:
    """What to know before.

    Attributes:
        level: an error is what breaks the mesh, or cannot be done.
        text: what would happen.
        hint: what to do instead, or first.
    """

    level: Level
    text: str
    hint: str


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The whole."""

    changes: tuple[Change, ...]
    dangers: tuple[Danger, ...]

    @property
    def status(self) -> int:
        """0: nothing would change. 1: something would. 2: something cannot, is not known, or must not."""
        actions = {change.action for change in self.changes}
        if actions & {Action.REFUSED, Action.UNKNOWN} or any(each.level is Level.ERROR for each in self.dangers):
            return 2
        return int(bool(actions - {Action.UNCHANGED} or self.dangers))


def upgrade(
    wanted: Sequence[Object], answers: Sequence[Answer], left_over: Sequence[LeftOver] | Unknown, software: str
) -> Upgrade:
    """What would change.

    Args:
        wanted: the objects to apply.
        answers: what the API server says of each.
        left_over: Unknown: whether there are others could not be found out.
        software: the version of this command, whose objects they are.
    """
    changes = [_change(each, answer) for each, answer in zip(wanted, answers, strict=True)]
    dangers = [
        danger for each, answer in zip(wanted, answers, strict=True) for danger in _dangers(each, answer, software)
    ]
    if isinstance(left_over, Unknown):
        text = "whether there are objects that this release does not have any more"
        dangers.append(Danger(Level.ERROR, f"{text} is not known: {left_over.why}", "ask with the right to list them"))
    else:
        changes += [_left_over(each) for each in left_over]
        dangers += [_of_a_kind(each) for each in left_over if each.kind.kind == DEFINITION]
        dangers += [_of_another_mesh(each) for each in left_over if (each.kind.kind, each.name) == ("Deployment", NAME)]
    return Upgrade(tuple(changes), tuple(dangers))


def _change(wanted: Object, answer: Answer) -> Change:
    metadata = wanted["metadata"]
    kind, name, namespace = kind_of(wanted).full_name, metadata["name"], metadata.get("namespace", "")
    match answer:
        case Absent():
            return Change(Action.CREATE, kind, name, namespace)
        case Refused():
            return Change(Action.REFUSED, kind, name, namespace, answer.why)
        case Unknown():
            return Change(Action.UNKNOWN, kind, name, namespace, answer.why)
        case Applied():
            text = diff(answer.live, answer.after)
            return Change(Action.CHANGE if text else Action.UNCHANGED, kind, name, namespace, text)


def _left_over(each: LeftOver) -> Change:
    return Change(Action.LEFT_OVER, each.kind.full_name, each.name, each.namespace)


def diff(live: Object, after: Object) -> str:
    """A unified diff of what people write, without values of Secrets; empty if nothing is different."""
    before, behind = _written(live), _written(after)
    if before == behind:
        return ""
    if before.get("kind") == "Secret":
        before, behind = _masked(before, behind, "before"), _masked(behind, before, "after")
    one, other = (as_block(each).splitlines() for each in (before, behind))
    return "\n".join(difflib.unified_diff(one, other, "live", "applied", lineterm="", n=CONTEXT_LINES))


def _written(content: Object) -> dict[str, Any]:
    """An object without what the API server and controllers say of it, in the order in which kubectl prints it."""
    metadata = {name: each for name, each in content["metadata"].items() if name not in _ADDED_BY_THE_SERVER}
    annotations = {
        name: each for name, each in (metadata.pop("annotations", None) or {}).items() if name != LAST_APPLIED
    }
    if annotations:
        metadata["annotations"] = annotations
    kept = {name: each for name, each in content.items() if name != "status"}
    ordered: dict[str, Any] = _ordered({**kept, "metadata": metadata})
    return ordered


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _ordered(value[name]) for name in sorted(value)}
    return [_ordered(each) for each in value] if isinstance(value, list) else value


def _masked(content: dict[str, Any], other: dict[str, Any], which: str) -> dict[str, Any]:
    """A Secret of which no value is shown; those that are different are still told apart, as kubectl does it."""
    masked = dict(content)
    for member in ("data", "stringData"):
        values, others = content.get(member) or {}, other.get(member) or {}
        if values:
            masked[member] = {
                key: "***" if key not in others or others[key] == value else f"*** ({which})"
                for key, value in values.items()
            }
    return masked


def _dangers(wanted: Object, answer: Answer, software: str) -> Iterator[Danger]:
    if wanted["kind"] == DEFINITION and isinstance(answer, Applied | Refused) and answer.live is not None:
        yield from _of_a_definition(answer.live, wanted)
    if not isinstance(answer, Applied):
        return
    if wanted["kind"] == "Deployment" and wanted["metadata"]["name"] == NAME:
        yield from _of_the_control_plane(answer.live, answer.after, software)
    if wanted["kind"] == "MeshConfig":
        before, after = (each["spec"].get("trustDomain") for each in (answer.live, answer.after))
        if before != after:
            yield _another_domain("trustDomain", str(before), str(after))
    yield from _of_roots(wanted["kind"], answer)


def _of_a_definition(live: Object, wanted: Object) -> Iterator[Danger]:
    name = wanted["metadata"]["name"]
    changes = changes_of(*(msgspec.convert(each, Definition) for each in (live, wanted)))
    if changes.blocking:
        yield Danger(Level.ERROR, f"{name}: {some(changes.blocking)}", changes.hint)
    if changes.lost:
        hint = "keep a copy (kubectl get meshproxy -A -o yaml), and see that no object needs them"
        yield Danger(Level.WARNING, f"{name}: objects lose these fields: {some(changes.lost)}", hint)


def _of_the_control_plane(live: Object, after: Object, software: str) -> Iterator[Danger]:
    (before_image, before), (after_image, behind) = _container(live), _container(after)
    for flag in IDENTITY_FLAGS:
        if flag in before and before[flag] != behind.get(flag):
            yield _another_domain(flag, before[flag], behind.get(flag, "nothing"))
    labels = live["metadata"].get("labels") or {}
    old, new = _release(before_image) or labels.get(RELEASE_LABEL, ""), _release(after_image) or software
    if not are_compatible(new, software):
        yield Danger(
            Level.WARNING,
            f"the image is of {new}, and these objects are of {software}: they may be more than one minor apart",
            f"use the meshproxy of {new} for them",
        )
    if old and not are_compatible(old, new):
        yield Danger(
            Level.ERROR,
            f"the control plane goes from {old} to {new}: sidecars may be one minor version apart from it, no more",
            "go through each minor version, and let pods be made again before the next: meshproxy check",
        )


def _another_domain(what: str, before: str, after: str) -> Danger:
    return Danger(
        Level.ERROR,
        f"{what} changes from {before} to {after}: sidecars and the control plane do not know each other any more",
        "keep it; a mesh of another name is another mesh, in another namespace",
    )


def _container(deployment: Object) -> tuple[str, dict[str, str]]:
    """The image and the flags of a control plane."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    container = next((each for each in containers if each["name"] == "control"), containers[0])
    flags = (each.partition("=") for each in container.get("args") or ())
    return container.get("image", ""), {flag: value for flag, _, value in flags}


def _release(image: str) -> str:
    """The version that an image is tagged with; empty: none."""
    found = _TAG.search(image)
    return found[1] if found else ""


def _of_roots(kind: str, applied: Applied) -> Iterator[Danger]:
    before, after = roots_in(_written(applied.live)), roots_in(_written(applied.after))
    gone, new = (", ".join(sorted(each)) for each in (before - after, after - before))
    hint = "rotate in steps instead (docs/root-rotation.md): a new root is trusted before it signs"
    if gone:
        text = f"{kind}: roots of trust go ({gone}{f'; {new} come' if new else ''})"
        yield Danger(Level.ERROR, f"{text}: certificates below them are not accepted by pods that are made then", hint)
    elif new:
        yield Danger(Level.WARNING, f"{kind}: roots of trust come ({new})", f"see that they are yours; {hint}")


def roots_in(value: Any) -> frozenset[str]:
    """The certificates in an object, wherever they stand: the beginnings of their SHA-256 fingerprints."""
    found: set[str] = set()
    for name, text in _texts(value, ""):
        if name == "caBundle":
            try:
                text = base64.b64decode(text).decode()
            except ValueError:
                continue
        for match in _CERTIFICATE.finditer(text):
            # Line breaks are escaped where the text is in another one: a JSON document, an expression of CEL.
            body = re.sub(r"\\+n|[^A-Za-z0-9+/=]", "", match[1])
            with suppress(ValueError):  # what cannot be read is no root
                found.add(hashlib.sha256(base64.b64decode(body)).hexdigest()[:16])
    return frozenset(found)


def _texts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _texts(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, name)


def _of_a_kind(each: LeftOver) -> Danger:
    return Danger(
        Level.WARNING,
        f"{each.name} is no kind of this release: its objects are not read",
        "leave it unless you are sure: with the definition all its objects are deleted",
    )


def _of_another_mesh(each: LeftOver) -> Danger:
    return Danger(
        Level.ERROR,
        f"the control plane in namespace {each.namespace} is not the one of these options: with its namespace goes the"
        " Secret with the root of its mesh, and without it no sidecar gets a certificate",
        f"if that is the mesh to upgrade: --control-namespace {each.namespace}",
    )
