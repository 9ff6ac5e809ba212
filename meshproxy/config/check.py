"""Checks across documents: every referenced name exists, and nothing is defined twice.

Works on the nodes, not on the finished structs: a document with a wrong field still has its references looked at. What
is wrong with a document depends on itself, and on what `Names.look` says of others: `CheckedSet` looks at it again when
that changes.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshproxy.config.accounts import account_name
from meshproxy.config.codes import Code
from meshproxy.config.places import directions_of, find, is_numbered, items, value_at, version_at
from meshproxy.config.problems import Problem, closest
from meshproxy.config.rollout_check import ARMS, PATTERN, ROLLOUT, SPLITS, check_rollout, chosen_by
from meshproxy.config.values import is_whole_version, shown

if TYPE_CHECKING:
    from meshproxy.config.nodes import Node


DEFINED_BY = {"issuer": "MeshConfig", "trust domain": "MeshConfig", "AWS account": "MeshConfig"}
"""Which kind defines what a document refers to by name, where that is no kind of its own."""
IAM_ROLE = "IAM role"
"""Is defined by no document."""
CALLER_IDENTITY = "pre-signed requests"
AWS_ACCOUNT = "AWS account"
SINGLE = ("MeshConfig", "Sidecar")
"""Kinds of which a set has one document."""
ONE_OF = "the one of a kind"
"""What documents of these kinds define, whatever their name: it is the kind."""
HOST = "host"
"""A host that leads to a server."""


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A document with its position: its kind and name, its nodes, and the struct unless something is wrong with it.
    Compared by identity."""

    kind: str
    name: str
    file: str
    node: Node
    document: Any = None
    is_local: bool = True
    """A file of this host, so that files which it names should be on this host, too."""
    _references: tuple[tuple[str, str, Node], ...] | None = dataclasses.field(default=None, init=False, repr=False)

    @property
    def references(self) -> tuple[tuple[str, str, Node], ...]:
        """Every name that it refers to something by: what, the field, the node. Looked for once."""
        if self._references is None:
            object.__setattr__(self, "_references", tuple(_named(self)))
        assert self._references is not None
        return self._references

    @property
    def label(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def place(self) -> str:
        return f"{self.file}:{self.node.line}"

    def at(self, node: Node, field: str, message: str, code: Code) -> Problem:
        return Problem(self.file, node.line, self.label, field, message, code)


Defined = tuple[str, Hashable]
"""What is defined (a kind, or a word of the constants above), and by which name."""
Look = Callable[[str, Hashable], Sequence[Placed]]
"""Gives the documents that define something, in the order of their places."""


class Names:
    """Which documents define what."""

    def __init__(self) -> None:
        self._defined: dict[str, dict[Hashable, list[tuple[Any, Placed]]]] = {}

    def add(self, each: Placed, place: Any) -> set[Defined]:
        """Take in a document. Returns what it defines.

        Args:
            place: its own among all documents; less than those of later ones.
        """
        defined = set(definitions(each))
        for what, name in defined:
            bisect.insort(self._defined.setdefault(what, {}).setdefault(name, []), (place, each))
        return defined

    def remove(self, each: Placed, place: Any) -> set[Defined]:
        """The inverse of `add`."""
        defined = set(definitions(each))
        for what, name in defined:
            places = self._defined[what][name]
            places.remove((place, each))
            if not places:
                del self._defined[what][name]
        return defined

    def look(self, what: str, name: Hashable) -> Sequence[Placed]:
        """The documents that define something (`Look`)."""
        return [each for _, each in self._defined.get(what, {}).get(name, ())]

    def has_any(self, what: str) -> bool:
        """Whether documents define something of this sort."""
        return bool(self._defined.get(what))

    def hint(self, what: str, word: str) -> str:
        """Which name is like the one that nothing is defined by (`problems.closest`)."""
        return closest(word, [name for name in self._defined.get(what, ()) if isinstance(name, str)])


def definitions(each: Placed) -> Iterator[Defined]:
    """What a document defines, some of it perhaps twice."""
    yield each.kind, each.name
    if each.kind in SINGLE:
        yield ONE_OF, each.kind
    if each.kind == "MeshConfig":
        for issuer in items(find(each.node, "spec", "issuers")):
            if isinstance(name := value_at(find(issuer, "name")), str):
                yield "issuer", name
        for node in (find(each.node, "spec", "trustDomain"), *trusted_domains(each)):
            if isinstance(domain := value_at(node), str):
                yield "trust domain", domain
        accounts = find(each.node, "spec", "aws", "accounts")
        for name in accounts.value if accounts is not None and isinstance(accounts.value, dict) else ():
            yield AWS_ACCOUNT, name
        if find(each.node, "spec", "aws", "callerIdentity") is not None:
            yield IAM_ROLE, CALLER_IDENTITY
    elif each.kind == "ModelRoute":
        for _, pattern, direction in _patterns(each):
            yield PATTERN, (pattern.value, direction)
        if items(find(each.node, "spec", "split")):
            for direction in directions_of(each):
                yield SPLITS, direction
    elif each.kind == "ModelRollout":
        if isinstance(model := value_at(find(each.node, "spec", "model")), str):
            yield ROLLOUT, (model, chosen_by(each))
    elif each.kind == "ModelServer":
        for _, node in _hosts(each):
            yield HOST, _host(node)


def check_set(
    placed: Sequence[Placed],
    *,
    is_whole: bool,
    where: str,
    is_partial: bool = False,
    needed: Sequence[str] = SINGLE,
) -> Iterator[Problem]:
    """Problems of the set as a whole.

    Args:
        is_whole: every file could be read to its end. Otherwise what seems to be missing may stand in the rest, and is
            not reported.
        where: what to call the set in a problem that no file has.
        is_partial: the other documents are elsewhere. What only they could have is not missed: references to kinds of
            which there is no document here are not looked up.
        needed: kinds that must not be missing, unless it is partial.
    """
    names = Names()
    for place, each in enumerate(placed):
        names.add(each, place)
    if is_whole and not is_partial:
        for kind in needed:
            if not names.has_any(kind):
                message = f"no {kind} among the documents: exactly one is needed"
                yield Problem(where, 0, "", "", message, Code.MISSING_DOCUMENT)

    def is_elsewhere(what: str) -> bool:
        return is_partial and not names.has_any(DEFINED_BY.get(what, what))

    for each in placed:
        if is_whole:
            yield from check_references(each, names.look, names.hint, is_elsewhere)
        yield from check_document(each, names.look)


def check_references(
    each: Placed,
    look: Look,
    hint: Callable[[str, str], str],
    is_elsewhere: Callable[[str], bool] = lambda what: False,
) -> Iterator[Problem]:
    """Names that a document refers to and nothing has.

    Args:
        look: tells who defines what.
        hint: what to add about a name of some sort, as `Names.hint`.
        is_elsewhere: whether names of this sort are not missed.
    """
    for what, field, node in each.references:
        if what == IAM_ROLE:
            if (meshes := look(ONE_OF, "MeshConfig")) and not any(
                defined in ("issuer", IAM_ROLE) for mesh in meshes for defined, _ in definitions(mesh)
            ):
                message = "no caller can prove an IAM role: the MeshConfig has no issuer and no aws.callerIdentity"
                yield each.at(node, field, message, Code.IMPOSSIBLE)
        elif not is_elsewhere(what) and isinstance(node.value, str) and not look(what, node.value):
            message = f"no {what} named {shown(node.value)}{hint(what, node.value)}"
            yield each.at(node, field, message, Code.UNKNOWN_REFERENCE)


def check_document(each: Placed, look: Look) -> Iterator[Problem]:
    """What is wrong with a document because of others, apart from names that it refers to."""
    alike = look(each.kind, each.name)
    single = look(ONE_OF, each.kind) if each.kind in SINGLE else alike
    if single[0] is not each and single is not alike:
        first = single[0]
        yield each.at(
            each.node, "", f"a second {each.kind}; the first is {first.label} at {first.place}", Code.DUPLICATE
        )
    elif alike[0] is not each:
        yield each.at(each.node, "metadata.name", f"duplicate name, first at {alike[0].place}", Code.DUPLICATE)
    if alike[0] is not each:
        return  # nothing further: it may be the same document
    if each.kind == "ModelRoute":
        yield from _overlaps(each, look)
        yield from _impossible(each, look)
    elif each.kind == "ModelRollout":
        for node, field, message, code in check_rollout(each, look):
            yield each.at(node, field, message, code)
    elif each.kind == "ModelServer":
        yield from _shared_hosts(each, look)
        yield from _unproved(each, look)
        yield from _unsent(each, look)
    elif each.kind == "Sidecar":
        yield from _missing_identity(each, look)


def _named(each: Placed) -> Iterator[tuple[str, str, Node]]:
    """Every name that a document refers to something by: what, the field, the node."""
    paths: list[tuple[str, tuple[str, ...]]] = []
    if each.kind == "ModelRoleBinding":
        paths = [("ModelRole", ("role",))]
    elif each.kind == "Sidecar":
        paths = [("ModelServer", ("inbound", "server")), ("ModelServer", ("outbound", "server"))]
    elif each.kind == "ModelRoute":
        paths = [
            ("ModelServer", path) for path in (("server",), ("mirror", "server"), ("fallback",), ("fallback", "server"))
        ]
        for index, destination in enumerate(items(find(each.node, "spec", "split"))):
            if (server := find(destination, "server")) is not None:
                yield "ModelServer", f"spec.split[{index}].server", server
    elif each.kind == "ModelRollout":
        paths = [("ModelServer", (arm, "server")) for arm in ARMS]
    for what, path in paths:
        if (node := find(each.node, "spec", *path)) is not None:
            yield what, ".".join(("spec", *path)), node
    for field, subject in subjects(each):
        if (issuer := find(subject, "token", "issuer")) is not None:
            yield "issuer", f"{field}.token.issuer", issuer
        if (role := find(subject, "iamRole")) is not None:
            yield IAM_ROLE, f"{field}.iamRole", role
            if isinstance(role.value, str) and (account := account_name(role.value)) is not None:
                yield AWS_ACCOUNT, f"{field}.iamRole", type(role)(account, role.line)
    for field, workload in workloads(each):
        if (domain := find(workload, "trustDomain")) is not None:
            yield "trust domain", f"{field}.trustDomain", domain


def subjects(each: Placed) -> Iterator[tuple[str, Node]]:
    """The subjects of a document: those of a binding, or the callers of a route's matches."""
    if each.kind == "ModelRoleBinding":
        for index, subject in enumerate(items(find(each.node, "spec", "subjects"))):
            yield f"spec.subjects[{index}]", subject
    elif each.kind == "ModelRoute":
        for index, match in enumerate(items(find(each.node, "spec", "match"))):
            if (caller := find(match, "caller")) is not None:
                yield f"spec.match[{index}].caller", caller


def workloads(each: Placed) -> Iterator[tuple[str, Node]]:
    """The workloads that a document names: as callers, or as the identity of a server."""
    for field, subject in subjects(each):
        if (workload := find(subject, "workload")) is not None:
            yield f"{field}.workload", workload
    if each.kind == "ModelServer" and (workload := find(each.node, "spec", "workload")) is not None:
        yield "spec.workload", workload


def trusted_domains(mesh: Placed) -> list[Node]:
    """The names of the other trust domains of a MeshConfig."""
    named = (find(domain, "name") for domain in items(find(mesh.node, "spec", "trustDomains")))
    return [name for name in named if name is not None]


def _patterns(route: Placed) -> Iterator[tuple[int, Node, str]]:
    """The patterns of a route that takes all of their calls: the index, the node, and each direction."""
    if not items(find(route.node, "spec", "match")):
        for index, pattern in enumerate(items(find(route.node, "spec", "models"))):
            if isinstance(pattern.value, str):
                for direction in directions_of(route):
                    yield index, pattern, direction


def _overlaps(route: Placed, look: Look) -> Iterator[Problem]:
    """Of the routes with one pattern in one direction, all but one must have a match."""
    reported = set()
    for index, pattern, direction in _patterns(route):
        first = look(PATTERN, (pattern.value, direction))[0]
        if first is not route and index not in reported:
            reported.add(index)
            message = (
                f"{shown(pattern.value)} already has a route, {first.label} at {first.place}:"
                ' one of the two needs a "match"'
            )
            yield route.at(pattern, f"spec.models[{index}]", message, Code.OVERLAP)


def _impossible(route: Placed, look: Look) -> Iterator[Problem]:
    """What a route asks for that no call could get, or that would do nothing."""
    directions = directions_of(route)
    if directions and "inbound" not in directions:
        for field, caller in subjects(route):
            message = "the caller is known for inbound calls only, but this route is outbound"
            yield route.at(caller, field, message, Code.IMPOSSIBLE)
    mirror = find(route.node, "spec", "mirror")
    own = value_at(find(route.node, "spec", "server"))
    if own is None and "inbound" in directions:
        servers = (find(sidecar.node, "spec", "inbound", "server") for sidecar in look(ONE_OF, "Sidecar"))
        own = next((value_at(server) for server in servers if server is not None), None)
    if mirror is not None and _targets(route, own) == {_target(mirror, own, _only_model(route))}:
        yield route.at(mirror, "spec.mirror", "mirrors calls to where they already go", Code.IMPOSSIBLE)
    yield from _text_versions(route, own, look)


def _text_versions(route: Placed, own: object, look: Look) -> Iterator[Problem]:
    """Versions that no server of a call can have."""
    for field, node, servers in _asked_versions(route, own):
        version = version_at(node)
        if not isinstance(version, str) or is_whole_version(version):
            continue
        known = [server for server in servers if is_numbered(look("ModelServer", server))]
        if known:
            message = (
                f"{shown(version)} is no version of ModelServer/{known[0]}: its health check is model-status, so it is "
                "TensorFlow Serving, whose versions are whole numbers"
            )
            yield route.at(node, field, message, Code.IMPOSSIBLE)


def _targets(route: Placed, own: object) -> set[object]:
    """Where calls of a route go: server, model, version and label of each share."""
    split = items(find(route.node, "spec", "split"))
    shares = [share for share in split if value_at(find(share, "weight")) != 0]
    return {_target(share, own, _only_model(route)) for share in shares} or {(own, None, None, None)}


def _target(node: Node, own: object, asked: object = None) -> tuple[object, object, object, object]:
    """`asked`: the model that is the same as none."""
    server, model, label = (value_at(find(node, field)) for field in ("server", "model", "label"))
    model = None if model == asked else model
    return own if server is None else server, model, version_at(find(node, "version")), label


def _only_model(route: Placed) -> object:
    """The model of a route that is for one."""
    models = items(find(route.node, "spec", "models"))
    return models[0].value if len(models) == 1 else None


def _asked_versions(route: Placed, own: object) -> Iterator[tuple[str, Node, list[object]]]:
    """Every version that a route writes into calls: the field, the node, and the servers that get those calls."""
    shares = items(find(route.node, "spec", "split"))
    servers: list[object] = [_target(share, own)[0] for share in shares]
    for index, share in enumerate(shares):
        if (node := find(share, "version")) is not None:
            yield f"spec.split[{index}].version", node, [servers[index]]
    mirror = find(route.node, "spec", "mirror")
    if mirror is not None:
        servers.append(_target(mirror, own)[0])
        if (node := find(mirror, "version")) is not None:
            yield "spec.mirror.version", node, servers[-1:]
    fallback = find(route.node, "spec", "fallback")
    if fallback is not None and (node := find(fallback, "version")) is not None:
        yield "spec.fallback.version", node, [_target(fallback, own)[0]]
    labels = find(route.node, "spec", "labels")
    if labels is not None and isinstance(labels.value, dict):
        for label, node in labels.value.items():
            yield f"spec.labels.{label}", node, servers if shares else [own, *servers]


def _hosts(server: Placed) -> Iterator[tuple[int, Node]]:
    for index, node in enumerate(items(find(server.node, "spec", "hosts"))):
        if isinstance(node.value, str):
            yield index, node


def _host(node: Node) -> str:
    """A host in its one form."""
    return str(node.value).lower().removesuffix(".")


def _shared_hosts(server: Placed, look: Look) -> Iterator[Problem]:
    """A host leads to one server; the names of servers are hosts, too."""
    for index, node in _hosts(server):
        first = (look("ModelServer", _host(node)) or look(HOST, _host(node)))[0]
        if first is not server:
            message = f"{shown(node.value)} already selects {first.label}, at {first.place}"
            yield server.at(node, f"spec.hosts[{index}]", message, Code.OVERLAP)


def _unproved(server: Placed, look: Look) -> Iterator[Problem]:
    """Sidecars that are called without mTLS."""
    for field, node in _sidecars(server):
        for mesh in look(ONE_OF, "MeshConfig"):
            if value_at(find(mesh.node, "spec", "mtls")) == "disabled":
                message = f'a sidecar is called over mTLS, but {mesh.label} has mtls "disabled"'
                yield server.at(node, field, message, Code.NO_IDENTITY)


def _unsent(server: Placed, look: Look) -> Iterator[Problem]:
    """Services whose endpoints nobody sends."""
    if (node := find(server.node, "spec", "service")) is None:
        return
    for sidecar in look(ONE_OF, "Sidecar"):
        if value_at(find(sidecar.node, "spec", "controlPlane", "documents")) is not True:
            message = (
                "the control plane sends the endpoints of a Service to sidecars whose documents come from there: "
                f'{sidecar.label} has no "controlPlane" with "documents: true"; without one, use "dns" with the '
                "name of a headless Service"
            )
            yield server.at(node, "spec.service", message, Code.NO_CONTROL_PLANE)


def _missing_identity(sidecar: Placed, look: Look) -> Iterator[Problem]:
    """What a sidecar needs for mTLS."""
    for mesh in look(ONE_OF, "MeshConfig"):
        mode = find(mesh.node, "spec", "mtls")
        if mode is not None and mode.value == "disabled":
            continue
        if find(sidecar.node, "spec", "identity", "workloadApi") is None:
            yield from _missing_bundles(mesh, sidecar)
        spec = find(sidecar.node, "spec")
        if spec is None or not isinstance(spec.value, dict):
            continue
        if find(spec, "identity") is None and find(spec, "controlPlane") is None:
            word = shown(mode.value) if mode is not None else '"strict"'
            message = f"is missing: {mesh.label} has mtls {word}, which requires a certificate"
            yield sidecar.at(spec, "spec.identity", message, Code.NO_IDENTITY)


def _missing_bundles(mesh: Placed, sidecar: Placed) -> Iterator[Problem]:
    """Trust domains whose bundles nobody delivers."""
    for index, domain in enumerate(items(find(mesh.node, "spec", "trustDomains"))):
        if isinstance(domain.value, dict) and find(domain, "bundle") is None:
            field = f"spec.trustDomains[{index}].bundle"
            message = f"is missing: {sidecar.label} has no workloadApi that delivers it"
            yield mesh.at(domain, field, message, Code.CONFLICTING_FIELDS)


def _sidecars(server: Placed) -> Iterator[tuple[str, Node]]:
    """Where a server names sidecars as its endpoints."""
    for index, endpoint in enumerate(items(find(server.node, "spec", "endpoints"))):
        if (node := find(endpoint, "sidecar")) is not None:
            yield f"spec.endpoints[{index}].sidecar", node
    for source in ("dns", "service"):
        if (node := find(server.node, "spec", source, "sidecar")) is not None:
            yield f"spec.{source}.sidecar", node
    if (node := find(server.node, "spec", "dns", "srv")) is not None and node.value == "sidecar":
        yield "spec.dns.srv", node
