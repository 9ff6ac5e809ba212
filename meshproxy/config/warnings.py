"""Warnings: documents that a sidecar can use, but that hardly mean what they say. `config check` reports them.

Works on the nodes, as `check` does, so that a warning has a line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from meshproxy.config.check import subjects, trusted_domains, workloads
from meshproxy.config.codes import Code
from meshproxy.config.issuer_claims import why_no_token_has
from meshproxy.config.places import find, items, value_at
from meshproxy.config.values import shown

if TYPE_CHECKING:
    from meshproxy.config.check import Placed
    from meshproxy.config.nodes import Node
    from meshproxy.config.problems import Problem

_TEXTS = frozenset({"iss", "sub", "jti", "client_id", "azp", "scope", "scp", "typ", "sid", "nonce", "acr"})
"""Claims that are text wherever they are registered (IANA, "JSON Web Token Claims")."""
_NUMBERS = frozenset({"exp", "nbf", "iat", "auth_time"})
_SCOPES = frozenset({"scope", "scp"})
_NO_VALUE = frozenset({"present", "words", "path"})
_FOREIGN = ("$", "[", "]", "\\")
"""Characters of JSONPath, and of the escapes that Keycloak uses for dots."""
_CONTRADICTION = "allOf demands that the claim is absent and that it has a value, which is never so"


def warn(placed: Sequence[Placed]) -> Iterator[Problem]:
    """Everything that is suspicious about documents that have no problems."""
    yield from _foreign_workloads(placed)
    yield from _no_workloads(placed)
    yield from _namespaces(placed)
    seen: dict[str, dict[str, str]] = {}
    urls = dict(_urls(placed))
    for each in placed:
        if each.kind == "MeshConfig":
            for index, issuer in enumerate(items(find(each.node, "spec", "issuers"))):
                yield from _required(each, issuer, f"spec.issuers[{index}]")
        for field, subject in subjects(each):
            if (token := find(subject, "token")) is None:
                continue
            name_of_issuer = str(node.value) if (node := find(token, "issuer")) is not None else ""
            named = seen.setdefault(name_of_issuer, {})
            for where, path, wanted in _claims(token):
                place = f"{field}.token.{where}"
                for message in _about(path, wanted, named) if isinstance(path, str) else _about_path(path, wanted):
                    yield each.at(wanted, place, f"{message}{_effect(each)}", Code.CLAIM)
                if _is_contradiction(wanted):
                    yield each.at(wanted, place, _CONTRADICTION, Code.CLAIM)
                if (why := why_no_token_has(urls.get(name_of_issuer, ""), path)) is not None:
                    yield each.at(wanted, place, why, Code.CLAIM)
                if isinstance(path, str):
                    named.setdefault(path, f"{each.file}:{wanted.key_line}")


def _claims(
    token: Node, by_name: str = "claims", by_path: str = "claimPaths"
) -> Iterator[tuple[str, str | list[str], Node]]:
    """The claims that a subject names, or an issuer: the field, the name or the path, and what is demanded."""
    claims = find(token, by_name)
    for name, wanted in claims.value.items() if claims is not None and isinstance(claims.value, dict) else ():
        yield f"{by_name}.{name}", name, wanted
    for index, each in enumerate(items(find(token, by_path))):
        path = [str(name.value) for name in items(find(each, "path"))]
        if path:
            yield f"{by_path}[{index}]", path, each


def _urls(placed: Sequence[Placed]) -> Iterator[tuple[str, str]]:
    """Name and `iss` of each issuer."""
    for each in placed:
        for issuer in items(find(each.node, "spec", "issuers")) if each.kind == "MeshConfig" else ():
            name, url = find(issuer, "name"), find(issuer, "issuer")
            if name is not None and url is not None and isinstance(name.value, str) and isinstance(url.value, str):
                yield name.value, url.value


def _foreign_workloads(placed: Sequence[Placed]) -> Iterator[Problem]:
    """SPIFFE ids of trust domains that are not trusted: no certificate can prove them."""
    meshes = [each for each in placed if each.kind == "MeshConfig"]
    trusted = [
        node.value
        for mesh in meshes
        for node in (*trusted_domains(mesh), find(mesh.node, "spec", "trustDomain"))
        if node
    ]
    for each in placed if meshes else ():
        for field, workload in workloads(each):
            node = find(workload, "spiffeId")
            if node is None or not isinstance(node.value, str):
                continue
            domain = node.value.removeprefix("spiffe://").partition("/")[0]
            if domain not in trusted:
                message = f"the mesh does not trust {shown(domain)}, so no certificate can prove this identity"
                message += ": add the domain to trustDomains of the MeshConfig"
                yield each.at(node, f"{field}.spiffeId", message, Code.FOREIGN_TRUST_DOMAIN)


def _no_workloads(placed: Sequence[Placed]) -> Iterator[Problem]:
    """Workloads where nobody has a certificate: what they are allowed nobody may do, and what they are denied everybody
    may."""
    meshes = [each for each in placed if each.kind == "MeshConfig"]
    if not any(value_at(find(mesh.node, "spec", "mtls")) == "disabled" for mesh in meshes):
        return
    for each in placed:
        for field, subject in subjects(each):
            if (node := find(subject, "workload")) is not None:
                message = "never matches, since the MeshConfig has mtls disabled: no caller has a workload identity"
                yield each.at(node, f"{field}.workload", message, Code.NO_WORKLOADS)


def _namespaces(placed: Sequence[Placed]) -> Iterator[Problem]:
    """Documents that a control plane which reads objects of the cluster finds the others without: a role that is
    missing there, or a `deny`. A Sidecar is read from a file."""
    written = [
        (each, node)
        for each in placed
        if each.kind != "Sidecar"
        and (node := find(each.node, "metadata", "namespace")) is not None
        and isinstance(node.value, str)
    ]
    for most, _ in Counter(node.value for _, node in written).most_common(1):
        first = next(each for each, node in written if node.value == most)
        for each, node in written:
            if node.value != most:
                message = (
                    f"{shown(node.value)}, and {first.label} is in {shown(most)}: with --cluster-documents a control"
                    " plane reads one namespace, and nobody the others"
                )
                yield each.at(node, "metadata.namespace", message, Code.NAMESPACES)


def _required(each: Placed, issuer: Node, field: str) -> Iterator[Problem]:
    named: dict[str, str] = {}
    for where, path, wanted in _claims(issuer, "requiredClaims", "requiredClaimPaths"):
        for message in _about(path, wanted, named) if isinstance(path, str) else _about_path(path, wanted):
            yield each.at(wanted, f"{field}.{where}", f"{message}; tokens without this claim are refused", Code.CLAIM)
        if _is_contradiction(wanted):
            yield each.at(wanted, f"{field}.{where}", f"{_CONTRADICTION}: all tokens are refused", Code.CLAIM)
        if isinstance(path, str):
            named[path] = f"{each.file}:{wanted.key_line}"


def _effect(each: Placed) -> str:
    action = find(each.node, "spec", "action")
    if each.kind == "ModelRoleBinding" and action is not None and action.value in ("deny", "audit"):
        return f"; what cannot be evaluated counts as a match for {action.value}"
    return "; what cannot be evaluated never matches"


def _compared(wanted: Node) -> Iterator[object]:
    """The values that a claim is compared with."""
    if not isinstance(wanted.value, dict):
        yield wanted.value
        return
    for word, node in wanted.value.items():
        for each in items(node) if word in ("allOf", "anyOf") else [node] if word not in _NO_VALUE else []:
            yield from _compared(each)


def _is_contradiction(wanted: Node) -> bool:
    """Whether a claim must be absent, and have a value."""
    absent = [value_at(find(each, "present")) is False for each in items(find(wanted, "allOf"))]
    return any(absent) and not all(absent)


def _about(name: str, wanted: Node, named: dict[str, str]) -> Iterator[str]:
    """What is wrong with one claim of a subject.

    Args:
        named: where claims of the same issuer were named before.
    """
    first = name.partition(".")[0]
    if first != name and first in _TEXTS | _NUMBERS:
        yield f"{shown(first)} is never an object, so nothing can be reached below it"
    if "" in name.split("."):
        yield "a part of the name between dots is empty"
    if any(character in name for character in _FOREIGN):
        yield "the name is compared as it is written: brackets, $ and backslashes have no meaning in it"
    yield from _about_values(name, wanted)
    for other, place in named.items():
        longer, shorter = (name, other) if len(name) > len(other) else (other, name)
        if longer.startswith(f"{shorter}."):
            yield (
                f"of {shown(shorter)} and {shown(longer)}, one cannot be evaluated (first at {place}): a claim is not "
                "both a value and an object"
            )


def _about_path(path: list[str], wanted: Node) -> Iterator[str]:
    """The same for a claim that a list of names finds."""
    if len(path) == 1:
        yield from _about_values(path[0], wanted)
    elif path[0] in _TEXTS | _NUMBERS:
        yield f"{shown(path[0])} is never an object, so nothing can be reached below it"


def _about_values(name: str, wanted: Node) -> Iterator[str]:
    """What is wrong with the values that a claim is compared with."""
    for value in _compared(wanted):
        if (name in _TEXTS and not isinstance(value, str)) or (name in _NUMBERS and type(value) is not int):
            kind = "text" if name in _TEXTS else "a number"
            yield f"{shown(name)} is {kind} in tokens, and {shown(value)} is not: they are never equal"
        if name in _SCOPES and isinstance(value, str) and len(value.split()) != 1:
            yield "a scope is one word: of several, a token must have all"
