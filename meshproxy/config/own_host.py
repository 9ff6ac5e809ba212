"""What only a sidecar's own host tells about documents that came from elsewhere: where their relative paths start, and
whether they go with its own document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from meshproxy.config.addresses import resolve_server_address
from meshproxy.config.codes import Code
from meshproxy.config.problems import Problem, closest
from meshproxy.config.schema import MeshConfig, ModelServer
from meshproxy.config.sent import key_of
from meshproxy.config.values import resolve_path, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from meshproxy.config.routes import Destination, Mirror, ModelRoute
    from meshproxy.config.schema import Issuer, Sidecar
    from meshproxy.config.sent import SentKind
    from meshproxy.config.servers import Endpoint, NamedTls


def in_folder(document: SentKind, folder: Path) -> SentKind:
    """The document with its relative paths from `folder` on. Raises ValueError for a UNIX socket whose path is too
    long."""

    def path(relative: str | None) -> str | None:
        return None if relative is None else resolve_path(folder, relative)

    def issuer(each: Issuer) -> Issuer:
        keys = each.keys
        if keys is not None and keys.file is not None:
            keys = replace(keys, file=path(keys.file))
        return replace(each, keys=keys, ca_file=path(each.ca_file), bearer_token_file=path(each.bearer_token_file))

    def endpoint(each: Endpoint) -> Endpoint:
        rest, grpc = (
            None if address is None else resolve_server_address(folder, address) for address in (each.rest, each.grpc)
        )
        return replace(each, rest=rest, grpc=grpc)

    def tls(each: NamedTls | None) -> NamedTls | None:
        if each is None:
            return None
        return replace(each, ca_file=path(each.ca_file), certificate=path(each.certificate), key=path(each.key))

    match document:
        case MeshConfig(spec=mesh):
            domains = tuple(
                each if each.bundle is None else replace(each, bundle=replace(each.bundle, file=path(each.bundle.file)))
                for each in mesh.trust_domains
            )
            issuers = tuple(map(issuer, mesh.issuers))
            aws = mesh.aws
            if aws.caller_identity is not None:
                callers = replace(aws.caller_identity, ca_file=path(aws.caller_identity.ca_file))
                aws = replace(aws, caller_identity=callers)
            return replace(document, spec=replace(mesh, trust_domains=domains, issuers=issuers, aws=aws))
        case ModelServer(spec=server):
            security = server.tls
            if security is not None:
                security = replace(security, rest=tls(security.rest), grpc=tls(security.grpc))
            return replace(
                document, spec=replace(server, endpoints=tuple(map(endpoint, server.endpoints)), tls=security)
            )
    return document


def misfits(
    sidecar: Sidecar, mesh: MeshConfig, servers: Sequence[ModelServer], routes: Sequence[ModelRoute]
) -> Iterator[Problem]:
    """What is wrong with documents, each of which is good, beside this Sidecar."""

    def problem(document: object, field: str, message: str, code: Code) -> Problem:
        return Problem("", 0, key_of(document), field, message, code)

    spec = sidecar.spec
    names = {server.metadata.name for server in servers}
    inbound, outbound = spec.inbound, spec.outbound
    for field, server in (
        ("inbound.server", inbound.server if inbound is not None else None),
        ("outbound.server", outbound.server if outbound is not None else None),
    ):
        if server is not None and server not in names:
            message = f"no ModelServer named {shown(server)}{closest(server, names)}"
            yield problem(sidecar, f"spec.{field}", message, Code.UNKNOWN_REFERENCE)
    has_agent = spec.identity is not None and spec.identity.workload_api is not None
    if mesh.spec.mtls != "disabled" and not has_agent:
        for index, domain in enumerate(mesh.spec.trust_domains):
            if domain.bundle is None:
                message = f"is missing: Sidecar/{sidecar.metadata.name} has no workloadApi that delivers it"
                yield problem(mesh, f"spec.trustDomains[{index}].bundle", message, Code.CONFLICTING_FIELDS)
    if inbound is not None:
        for route in routes:
            if _mirrors_to_itself(route, inbound.server):
                yield problem(route, "spec.mirror", "mirrors calls to where they already go", Code.IMPOSSIBLE)


def _mirrors_to_itself(route: ModelRoute, own: str) -> bool:
    """Whether a route mirrors all inbound calls to where they go, because it names the server of this sidecar."""
    spec = route.spec
    if spec.mirror is None or spec.server is not None or "inbound" not in spec.directions:
        return False
    asked = spec.models[0] if len(spec.models) == 1 else None

    def target(to: Destination | Mirror) -> tuple[object, ...]:
        return to.server or own, None if to.model == asked else to.model, to.version, to.label

    shares = {target(share) for share in spec.split if share.weight}
    return (shares or {(own, None, None, None)}) == {target(spec.mirror)}
