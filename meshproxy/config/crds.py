"""The CustomResourceDefinitions of our kinds, made from the schema: deploy/kubernetes/crds.yaml.

What they accept is what the schema accepts, or a little more, except that a number of seconds has to be a whole one, as
no type of theirs is text or any number: the API server refuses early what it can tell, and the control plane checks
everything. They have no defaults: an object stays as its author has written it, and a default that changes in a release
changes no object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct, inspect

from meshproxy import __version__
from meshproxy.config import addresses, certificates, fields, rollouts, routes, schema, servers, sidecars, values
from meshproxy.config.reference import description
from meshproxy.config.reference import fields as described_fields

if TYPE_CHECKING:
    from collections.abc import Callable

Schema = dict[str, Any]

HEADER = """\
# The kinds of meshproxy for Kubernetes: kubectl apply --server-side -f crds.yaml
# Made from meshproxy/config by `meshproxy config crds`; a test keeps it up to date.
"""

RELEASE_LABEL = "app.kubernetes.io/version"
"""The release of meshproxy that an object is of."""

_INT_OR_TEXT: Schema = {"x-kubernetes-int-or-string": True}
_ANY: Schema = {"x-kubernetes-preserve-unknown-fields": True}
_DURATION = _INT_OR_TEXT | {"maxLength": 64, "pattern": r"^([0-9]{1,9}(\.[0-9]{1,9})?(h|m|s|ms))+$"}
_READ_AS: dict[object, Schema] = {
    "size": _INT_OR_TEXT | {"maxLength": 18, "pattern": r"^[0-9]{1,15}([KMG]iB?)?$"},
    "count": {"type": "integer", "minimum": 1, "maximum": 1_000_000},
    "rate": {"type": "number", "minimum": 0, "maximum": 1_000_000},
    values.read_duration: _DURATION,
    values.read_duration_or_zero: _DURATION,
    values.read_lifetime: _DURATION,
    values.read_percent: {"type": "number", "minimum": 0, "maximum": 100},
    values.read_ratio: {"type": "number", "minimum": 0, "maximum": 1},
    values.read_weight: {"type": "integer", "minimum": 0, "maximum": 1_000_000},
    values.read_port: {"type": "integer", "minimum": 1, "maximum": 65_535},
    values.read_http_status: {"type": "integer", "minimum": 400, "maximum": 599},
    values.read_version: _INT_OR_TEXT | {"maxLength": 256},
}
"""By reader, or by `type` of those that are declared below this package."""
_LENGTHS: dict[object, int] = {
    values.read_glob: values.GLOB_LENGTH,
    values.read_name_glob: 256,
    values.read_model_name: values.GLOB_LENGTH,
    values.read_name: 253,
    values.read_trust_domain: 255,
    values.read_header_name: 256,
    values.read_condition_header: 256,
    values.read_cookie_name: 256,
    values.read_host_name: 253,
    values.read_dns_name: 254,
    values.read_label: 63,
    values.read_port_name: 63,
    values.read_url: 2_048,
    values.read_issuer: 2_048,
    values.read_spiffe_id: 2_048,
    values.read_role_arn: 1_024,
    addresses.read_server_name: 254,
    certificates.read_certificates: certificates.CHARACTERS,
}
"""The longest texts, in characters."""
_TEXT_LENGTH = 1_024
"""Of texts that are not in `_LENGTHS`."""

_ONE_OF_VERSION_AND_LABEL = (
    "!(has(self.version) && has(self.label))",
    "a call names a version or a label, never both",
)
_HAS_A_TARGET = (
    "has(self.server) || has(self.model) || has(self.version) || has(self.label)",
    "expected server, model, version or label",
)
_SIDECAR_ALONE = (
    "!(has(self.sidecar) && (has(self.rest) || has(self.grpc)))",
    "sidecar serves REST and gRPC: leave rest and grpc out",
)
_HAS_AN_ADDRESS = (
    "has(self.rest) || has(self.grpc) || has(self.sidecar)",
    "expected rest, grpc or both, or sidecar",
)
_ONE_SOURCE_OF_THE_CERTIFICATE = (
    "!has(self.identity) || !has(self.controlPlane) || has(self.controlPlane.documents) && self.controlPlane.documents",
    "identity and controlPlane both say where the certificate comes from: keep one, or set controlPlane.documents",
)
RULES: dict[type[Struct], tuple[tuple[str, str], ...]] = {
    schema.KeySource: (
        ("(has(self.file) ? 1 : 0) + (has(self.url) ? 1 : 0) + (has(self.inline) ? 1 : 0) == 1",
         "expected exactly one of file, url and inline"),
    ),
    schema.Issuer: (
        ("has(self.audiences) && size(self.audiences) > 0 || has(self.requiredClaims) || has(self.requiredClaimPaths)",
         "expected audiences or requiredClaims: without either, tokens that were issued for others would be accepted"),
        ("!has(self.bearerTokenFile) || has(self.caFile)", "bearerTokenFile requires caFile"),
        (("!has(self.loadBalancers) || size(self.loadBalancers) == 0"
          " || has(self.tokenFrom) && has(self.audiences) && size(self.audiences) > 0"),
         "loadBalancers requires tokenFrom and audiences"),
    ),
    schema.TokenPlace: (("has(self.header) != has(self.cookie)", "expected exactly one of header and cookie"),),
    schema.TrustBundle: (("has(self.file) != has(self.inline)", "expected exactly one of file and inline"),),
    schema.Rule: (
        ("!(has(self.versions) && size(self.versions) > 0 && has(self.labels) && size(self.labels) > 0)",
         "a call names a version or a label, never both: write two rules"),
    ),
    fields.WorkloadSubject: (
        ("has(self.spiffeId) != (has(self.__namespace__) || has(self.serviceAccount) || has(self.trustDomain))",
         "expected namespace, serviceAccount, trustDomain or several of them, or spiffeId alone"),
    ),
    fields.Subject: (
        ("has(self.workload) || has(self.token) || has(self.iamRole)", "expected workload, token or iamRole"),
    ),
    fields.BindingSubject: (
        (" || ".join(f"has(self.{name})" for name in
                     ("workload", "token", "iamRole", "headers", "ipBlocks", "notIpBlocks")),
         "expected workload, token, iamRole, ipBlocks, notIpBlocks or headers"),
    ),
    routes.Match: (
        ("has(self.headers) || has(self.caller)", "expected headers or caller"),
    ),
    routes.Destination: (_ONE_OF_VERSION_AND_LABEL,),
    routes.Mirror: (_ONE_OF_VERSION_AND_LABEL, _HAS_A_TARGET),
    rollouts.Arm: (_ONE_OF_VERSION_AND_LABEL, _HAS_A_TARGET),
    rollouts.ThresholdRange: (("has(self.min) || has(self.max)", "expected min, max or both"),),
    routes.Fault: (("has(self.delay) || has(self.abort)", "expected delay, abort or both"),),
    routes.RateLimit: (
        ("has(self.requests) || has(self.bytes) || has(self.examples)", "expected requests, bytes or examples"),
    ),
    routes.RouteSpec: (
        ("!(has(self.cors) && has(self.match) && size(self.match) > 0)", "cors and match exclude each other"),
    ),
    servers.Endpoint: (
        _SIDECAR_ALONE,
        _HAS_AN_ADDRESS,
    ),
    servers.NamedTls: (("has(self.certificate) == has(self.key)", "certificate and key belong together"),),
    servers.ServerTls: (("has(self.rest) || has(self.grpc)", "expected rest, grpc or both"),),
    servers.Dns: (
        _SIDECAR_ALONE,
        ("has(self.srv) != (has(self.rest) || has(self.grpc) || has(self.sidecar))",
         "expected rest, grpc or both, or sidecar, or srv, whose records have ports"),
    ),
    servers.Service: (_SIDECAR_ALONE, _HAS_AN_ADDRESS),
    servers.ServerSpec: (
        ("[has(self.dns), has(self.service), has(self.endpoints) && size(self.endpoints) > 0].exists_one(one, one)",
         "expected one endpoint or more under endpoints, or dns, or service"),
    ),
    sidecars.Identity: (
        ("has(self.files) != has(self.workloadApi)", "expected exactly one of files and workloadApi"),
    ),
    sidecars.SidecarSpec: (
        ("has(self.inbound) || has(self.outbound)", "expected inbound, outbound or both"),
        _ONE_SOURCE_OF_THE_CERTIFICATE,
    ),
}  # fmt: skip
"""Rules of `__post_init__` that cost the API server nothing: CEL, and what it says."""

_COLUMNS: dict[str, tuple[tuple[str, str], ...]] = {
    "MeshConfig": (("Trust domain", ".spec.trustDomain"), ("mTLS", ".spec.mtls")),
    "ModelRole": (("Models", ".spec.rules[*].models"),),
    "ModelRoleBinding": (("Role", ".spec.role"), ("Action", ".spec.action")),
    "ModelServer": (("Resolved", '.status.conditions[?(@.type=="ResolvedRefs")].status'),),
    "ModelRoute": (("Models", ".spec.models"), ("Server", ".spec.server")),
    "ModelRollout": (
        ("Model", ".spec.model"),
        ("Phase", ".status.rollout.phase"),
        ("Weight", ".status.rollout.weight"),
    ),
    "Sidecar": (),
}
_STATUS: dict[str, dict[str, Schema]] = {
    "ModelRollout": {
        "rollout": {
            "type": "object",
            "description": "Where the rollout is: what the control plane goes on from.",
            "properties": {
                "phase": {"type": "string", "maxLength": 64},
                "weight": {"type": "number", "minimum": 0, "maximum": 100},
            },
            **_ANY,
        },
    },
}
"""What the status of a kind says beside what all say."""
_CONDITION: Schema = {
    "type": "object",
    "required": ["type", "status", "lastTransitionTime", "reason", "message"],
    "properties": {
        "type": {"type": "string", "maxLength": 316},
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
        "lastTransitionTime": {"type": "string", "format": "date-time"},
        "reason": {"type": "string", "minLength": 1, "maxLength": 1_024},
        "message": {"type": "string", "maxLength": 32_768},
    },
}
"""`meta/v1` Condition."""


def page() -> str:
    """All definitions, as YAML."""
    import yaml

    documents = [yaml.safe_dump(definition(kind), sort_keys=False, width=120) for kind in schema.KINDS]
    return HEADER + "---\n" + "---\n".join(documents)


def definition(kind: type[Struct]) -> Schema:
    """The CustomResourceDefinition of one kind."""
    name = kind.__name__
    group, _, version = fields.API_VERSION.partition("/")
    columns: list[Schema] = [{"name": title, "type": "string", "jsonPath": path} for title, path in _COLUMNS[name]]
    accepted = '.status.conditions[?(@.type=="Accepted")].'
    columns += [
        {"name": "Accepted", "type": "string", "jsonPath": f"{accepted}status"},
        {"name": "Sidecars", "type": "integer", "jsonPath": ".status.sidecars.updated"},
        {"name": "Message", "type": "string", "jsonPath": f"{accepted}message", "priority": 1},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": definition_name(kind), "labels": {RELEASE_LABEL: __version__}},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "singular": name.lower(),
                "plural": plural(kind),
                "categories": ["meshproxy"],
            },
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _document(kind)},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                }
            ],
        },
    }


def plural(kind: type[Struct]) -> str:
    """The name of a kind in the paths of the API server."""
    return f"{kind.__name__.lower()}s"


def definition_name(kind: type[Struct]) -> str:
    """The name of the CustomResourceDefinition of a kind."""
    return f"{plural(kind)}.{fields.API_VERSION.partition('/')[0]}"


def _document(kind: type[Struct]) -> Schema:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    (spec,) = (field for field in info.fields if field.encode_name == "spec")
    return {
        "type": "object",
        "description": _first_paragraph(kind),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": type_schema(spec.type),
            "status": {
                "type": "object",
                "description": "What the control plane says of it.",
                "properties": {
                    "conditions": {
                        "type": "array",
                        "maxItems": 16,
                        "items": _CONDITION,
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["type"],
                    },
                    "sidecars": {
                        "type": "object",
                        "description": "How many sidecars it concerns, and how many of them use it as it is here.",
                        "properties": {name: {"type": "integer", "minimum": 0} for name in ("concerned", "updated")},
                    },
                    **_STATUS.get(kind.__name__, {}),
                },
            },
        },
    }


def type_schema(kind: inspect.Type) -> Schema:
    """The schema of a type, as an API server takes it."""
    match kind:
        case inspect.StructType():
            return _struct(kind.cls, kind)
        case inspect.VarTupleType():
            bounds = {"minItems": kind.min_length} if kind.min_length else {}
            return {"type": "array", "items": type_schema(kind.item_type), **bounds}
        case inspect.DictType():
            values_of = type_schema(kind.value_type)
            # CEL knows no map whose values may be of several types, but an object of which nothing is said.
            return {"type": "object"} | (_ANY if values_of == _ANY else {"additionalProperties": values_of})
        case inspect.UnionType():
            kinds = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
            return type_schema(kinds[0]) if len(kinds) == 1 else dict(_ANY)
        case inspect.AnyType():
            return dict(_ANY)
        case inspect.Metadata():
            return _value(kind)
        case inspect.LiteralType():
            return {"type": "string", "enum": list(kind.values)}
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.IntType() | inspect.FloatType():
            return {"type": "integer" if isinstance(kind, inspect.IntType) else "number"} | _bounds(kind)
        case _:
            assert isinstance(kind, inspect.StrType)
            return {"type": "string", "maxLength": _TEXT_LENGTH}


def _value(kind: inspect.Metadata) -> Schema:
    """A value that has a reader of its own, or an enumeration."""
    extra = kind.extra or {}
    reader: Callable[[object], object] | str | None = extra.get("read") or extra.get("type")
    if reader is None:
        return type_schema(kind.type)
    if reader in _READ_AS:
        known = dict(_READ_AS[reader])
        return known if "x-kubernetes-int-or-string" in known else known | _bounds(kind.type)
    assert callable(reader)
    least = {} if _takes(reader, "") else {"minLength": 1}
    return {"type": "string", **least, "maxLength": _LENGTHS.get(reader, _TEXT_LENGTH)}


def _takes(reader: Callable[[object], object], value: object) -> bool:
    try:
        reader(value)
    except ValueError:
        return False
    return True


def _bounds(kind: inspect.Type) -> Schema:
    if not isinstance(kind, inspect.IntType | inspect.FloatType):
        return {}
    bounds = {"minimum": kind.ge, "maximum": kind.le}
    return {name: bound for name, bound in bounds.items() if bound is not None}


def _struct(cls: type[Struct], info: inspect.StructType) -> Schema:
    texts = {field.name: field.text for field in described_fields(cls)}
    properties = {}
    for field in info.fields:
        found = type_schema(field.type)
        text = texts[field.encode_name]
        properties[field.encode_name] = ({"description": text} if text else {}) | found
    made: Schema = {"type": "object", "description": _first_paragraph(cls), "properties": properties}
    if required := [field.encode_name for field in info.fields if field.required]:
        made["required"] = required
    if rules := RULES.get(cls):
        made["x-kubernetes-validations"] = [{"rule": rule, "message": message} for rule, message in rules]
    return made


def _first_paragraph(cls: type[Struct]) -> str:
    return " ".join(description(cls).split("\n\n")[0].split())
