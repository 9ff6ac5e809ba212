"""Warnings about telemetry: a metrics page that a sidecar is to read, or relay, and cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.config.codes import Code
from meshproxy.config.places import find

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meshproxy.config.check import Placed
    from meshproxy.config.fields import BindingSubject
    from meshproxy.config.problems import Problem
    from meshproxy.config.servers import ServerSpec


def warn_of_telemetry(placed: Sequence[Placed], *, is_partial: bool) -> Iterator[Problem]:
    """Everything that is suspicious about `telemetry.modelServer`. Only documents without problems are looked at.

    Args:
        is_partial: other documents are elsewhere: nothing is said then.
    """
    if is_partial:
        return
    whole = [each for each in placed if each.document is not None]
    meshes = [each for each in whole if each.kind == "MeshConfig"]
    sidecars = [each for each in whole if each.kind == "Sidecar"]
    if len(whole) < len(placed) or not meshes or not sidecars:
        return
    (mesh, *_), (sidecar, *_) = meshes, sidecars
    settings, inbound = mesh.document.spec.telemetry.model_server, sidecar.document.spec.inbound
    node = find(mesh.node, "spec", "telemetry", "modelServer")
    if settings is None or inbound is None or node is None:
        return
    field = "spec.telemetry.modelServer"
    servers = {each.name: each for each in whole if each.kind == "ModelServer"}
    spec = servers[inbound.server].document.spec
    if not _has_rest(spec):
        message = f'the ModelServer {inbound.server} has no "rest", the port where the page is'
        yield mesh.at(node, field, message, Code.SERVER_METRICS)
    if not settings.relay:
        return
    relay = find(node, "relay") or node
    if len(spec.endpoints) > 1:
        message = f"the ModelServer {inbound.server} has several endpoints: the page of one can be relayed"
        yield mesh.at(relay, f"{field}.relay", message, Code.SERVER_METRICS)
    readers = {each.name for each in whole if each.kind == "ModelRole" and _reads_metrics(each)}
    bindings = [each.document.spec for each in whole if each.kind == "ModelRoleBinding"]
    if not any(
        binding.action == "allow" and binding.role in readers and any(map(_is_address, binding.subjects))
        for binding in bindings
    ):
        message = 'no binding permits the verb metrics by "ipBlocks" alone, and the admin port knows no identities'
        yield mesh.at(relay, f"{field}.relay", f"{message}: nobody gets the page", Code.SERVER_METRICS)


def _has_rest(spec: ServerSpec) -> bool:
    found = (*spec.endpoints, *(each for each in (spec.dns, spec.service) if each is not None))
    return any(each.rest is not None for each in found) or (spec.dns is not None and spec.dns.srv == "rest")


def _reads_metrics(role: Placed) -> bool:
    return any("metrics" in rule.verbs and "*" in rule.models for rule in role.document.spec.rules)


def _is_address(subject: BindingSubject) -> bool:
    """It is met by an address alone."""
    named = (subject.workload, subject.token, subject.iam_role)
    return subject.ip_blocks is not None and not any(each is not None for each in named) and not subject.headers
