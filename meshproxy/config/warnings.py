"""Warnings: documents that a sidecar can use, but that hardly mean what they say. `config check` reports them.

Works on the nodes, as `check` does, so that a warning has a line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from meshproxy.config.check import find, items, subjects, trusted_domains, workloads
from meshproxy.config.codes import Code
from meshproxy.config.values import shown

if TYPE_CHECKING:
    from meshproxy.config.check import Placed
    from meshproxy.config.nodes import Node
    from meshproxy.config.problems import Problem

_TEXTS = frozenset({"iss", "sub", "jti", "client_id", "azp", "scope", "scp", "typ", "sid", "nonce", "acr"})
"""Claims that are text wherever they are registered (IANA, "JSON Web Token Claims")."""
_NUMBERS = frozenset({"exp", "nbf", "iat", "auth_time"})
_SCOPES = frozenset({"scope", "scp"})
_FOREIGN = ("$", "[", "]", "\\")
"""Characters of JSONPath, and of the escapes that Keycloak uses for dots."""


def warn(placed: Sequence[Placed]) -> Iterator[Problem]:
    """Everything that is suspicious about documents that have no problems."""
    yield from _foreign_workloads(placed)
    seen: dict[str, dict[str, str]] = {}
    for each in placed:
        if each.kind == "MeshConfig":
            for index, issuer in enumerate(items(find(each.node, "spec", "issuers"))):
                yield from _required(each, issuer, f"spec.issuers[{index}].requiredClaims")
        for field, subject in subjects(each):
            token = find(subject, "token")
            claims = find(token, "claims") if token is not None else None
            if token is None or claims is None or not isinstance(claims.value, dict):
                continue
            name_of_issuer = find(token, "issuer")
            named = seen.setdefault(str(name_of_issuer.value) if name_of_issuer is not None else "", {})
            for name, wanted in claims.value.items():
                place = f"{each.file}:{wanted.key_line}"
                for message in _about(name, wanted, named):
                    yield each.at(wanted, f"{field}.token.claims.{name}", f"{message}{_effect(each)}", Code.CLAIM)
                named.setdefault(name, place)


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


def _required(each: Placed, issuer: Node, field: str) -> Iterator[Problem]:
    claims = find(issuer, "requiredClaims")
    named: dict[str, str] = {}
    for name, wanted in claims.value.items() if claims is not None and isinstance(claims.value, dict) else ():
        for message in _about(name, wanted, named):
            yield each.at(wanted, f"{field}.{name}", f"{message}; tokens without this claim are refused", Code.CLAIM)
        named[name] = f"{each.file}:{wanted.key_line}"


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
        for each in items(node) if word in ("allOf", "anyOf") else [node] if word != "present" else []:
            yield from _compared(each)


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
    for value in _compared(wanted):
        if (name in _TEXTS and not isinstance(value, str)) or (name in _NUMBERS and type(value) is not int):
            kind = "text" if name in _TEXTS else "a number"
            yield f"{shown(name)} is {kind} in tokens, and {shown(value)} is not: they are never equal"
        if name in _SCOPES and isinstance(value, str) and len(value.split()) != 1:
            yield "a scope is one word: of several, a token must have all"
    for other, place in named.items():
        longer, shorter = (name, other) if len(name) > len(other) else (other, name)
        if longer.startswith(f"{shorter}."):
            yield (
                f"of {shown(shorter)} and {shown(longer)}, one cannot be evaluated (first at {place}): a claim is not "
                "both a value and an object"
            )
