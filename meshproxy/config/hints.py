"""The words of Istio, Linkerd, Envoy and Kubernetes, and what takes their place here: hints for authors who know those.

Only names that no kind of ours has are looked up here, so a word of ours is never explained away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

ISTIO, LINKERD, ENVOY, KUBERNETES, GATEWAY = "Istio", "Linkerd", "Envoy", "Kubernetes", "the Gateway API"
FLAGGER, ARGO, ENVOY_GATEWAY = "Flagger", "Argo Rollouts", "Envoy Gateway"

_POLICY = "ModelRole (which calls) with ModelRoleBinding (who may make them, or may not)"
_ROUTE = "ModelRoute"
_SERVER = "ModelServer"

KINDS: dict[str, tuple[str, str]] = {
    "AuthorizationPolicy": (f"{ISTIO} and {LINKERD}", _POLICY),
    "PeerAuthentication": (ISTIO, "`mtls` of the MeshConfig"),
    "RequestAuthentication": (ISTIO, "`issuers` of the MeshConfig"),
    "VirtualService": (ISTIO, _ROUTE),
    "DestinationRule": (
        ISTIO,
        f"{_SERVER} (`balancing`, `breaker`, `ejection`), and `split` of a ModelRoute for subsets",
    ),
    "ServiceEntry": (ISTIO, _SERVER),
    "WorkloadEntry": (ISTIO, f"an endpoint of a {_SERVER}"),
    "WorkloadGroup": (ISTIO, _SERVER),
    "Sidecar": (ISTIO, "Sidecar with `apiVersion: meshproxy.dev/v1alpha1`, which has other fields"),
    "EnvoyFilter": (ISTIO, "nothing: there are no filters to add"),
    "WasmPlugin": (ISTIO, "nothing: there are no plugins to add"),
    "Telemetry": (ISTIO, "`accessLog` and `auditLog` of the Sidecar"),
    "ProxyConfig": (ISTIO, "Sidecar"),
    "IstioOperator": (ISTIO, "MeshConfig"),
    "Server": (LINKERD, "`inbound` of the Sidecar, and " + _POLICY),
    "ServerAuthorization": (LINKERD, _POLICY),
    "MeshTLSAuthentication": (LINKERD, "`workload` of a subject in a ModelRoleBinding"),
    "NetworkAuthentication": (LINKERD, "`ipBlocks` of a subject in a ModelRoleBinding"),
    "ServiceProfile": (LINKERD, f"{_ROUTE} (`timeout`, `retries`)"),
    "EgressNetwork": (LINKERD, _SERVER),
    "ExternalWorkload": (LINKERD, f"an endpoint of a {_SERVER}"),
    "HTTPLocalRateLimitPolicy": (LINKERD, "`rateLimits` of a ModelRoute"),
    "TrafficSplit": ("the Service Mesh Interface", "`split` of a ModelRoute"),
    "TrafficTarget": ("the Service Mesh Interface", _POLICY),
    "HTTPRouteGroup": ("the Service Mesh Interface", "ModelRole"),
    "HTTPRoute": (GATEWAY, _ROUTE),
    "GRPCRoute": (GATEWAY, _ROUTE),
    "BackendTLSPolicy": (GATEWAY, f"`tls` of a {_SERVER}, or `workload` for a sidecar"),
    "InferencePool": (GATEWAY, _SERVER),
    "InferenceModel": (GATEWAY, _ROUTE),
    "SecurityPolicy": (ENVOY_GATEWAY, f"`issuers` of the MeshConfig, {_POLICY}, and `cors` of a ModelRoute"),
    "BackendTrafficPolicy": (ENVOY_GATEWAY, f"{_ROUTE} (`timeout`, `retries`, `rateLimits`) and {_SERVER}"),
    "ClientTrafficPolicy": (ENVOY_GATEWAY, "`limits` and `tls` of the MeshConfig"),
    "EnvoyExtensionPolicy": (ENVOY_GATEWAY, "nothing: there are no filters to add"),
    "EnvoyPatchPolicy": (ENVOY_GATEWAY, "nothing: there are no filters to add"),
    "EnvoyProxy": (ENVOY_GATEWAY, "Sidecar"),
    "Role": (KUBERNETES, "ModelRole"),
    "ClusterRole": (KUBERNETES, "ModelRole"),
    "RoleBinding": (KUBERNETES, "ModelRoleBinding"),
    "ClusterRoleBinding": (KUBERNETES, "ModelRoleBinding"),
    "ServiceIntentions": ("Consul", _POLICY),
    "ServiceRouter": ("Consul", _ROUTE),
    "ServiceSplitter": ("Consul", "`split` of a ModelRoute"),
    "ServiceResolver": ("Consul", _SERVER),
    "ServiceDefaults": ("Consul", _SERVER),
    "ProxyDefaults": ("Consul", "MeshConfig"),
    "Canary": (FLAGGER, "ModelRollout, whose `analysis` has the same words"),
    "MetricTemplate": (FLAGGER, "`metrics` of a ModelRollout, which need no queries"),
    "Rollout": (ARGO, "ModelRollout"),
    "AnalysisTemplate": (ARGO, "`analysis` of a ModelRollout"),
    "ClusterAnalysisTemplate": (ARGO, "`analysis` of a ModelRollout"),
    "MeshTrafficPermission": ("Kuma", _POLICY),
    "MeshHTTPRoute": ("Kuma", _ROUTE),
    "MeshTimeout": ("Kuma", "`timeout` of a ModelRoute"),
    "MeshRetry": ("Kuma", "`retries` of a ModelRoute"),
    "MeshCircuitBreaker": ("Kuma", f"`breaker` of a {_SERVER}"),
}
"""Kind -> whose it is, and what takes its place."""

GROUPS = ("istio.io", "linkerd.io", "smi-spec.io", "gateway.networking.k8s.io", "inference.networking.k8s.io",
          "inference.networking.x-k8s.io", "consul.hashicorp.com", "kuma.io", "flagger.app", "argoproj.io",
          "gateway.envoyproxy.io")  # fmt: skip
"""Ends of the API groups of meshes."""

_WORKLOAD = "`workload: {namespace: ..., serviceAccount: ...}` or `workload: {spiffeId: ...}` of a subject"
_CLAIMS = "`token: {issuer: ..., claims: {...}}` of a subject"
_CALLS = "`models` and `verbs` of a rule in a ModelRole"
_NOT = "a second ModelRoleBinding with `action: deny`"
_SELECTOR = "not needed: documents apply to the sidecar that loads them"
_SPLIT = "`split: [{weight: ..., server: ...}]` of a ModelRoute"
_MODELS = "`models` of a ModelRoute"
_KEY = "`sticky` of a ModelRoute, or `key` of a ModelServer with `policy: ring-hash`"
_TEXTS = "`exact`, `prefix`, `suffix`, `contains`, `regex` or `present`"
_HEADERS = "`match: [{headers: ...}]` of a ModelRoute"
_RETRIES = "`retries: {attempts: ..., reasons: [...]}` of a ModelRoute"
_EJECTION = "`ejection` of a ModelServer, and `breaker` for failures in a row"
_MAX = "`maxConnections` of a ModelServer, and `concurrency` of a ModelRoute"
_SERVER_NAME = "`serverName` in `tls: {grpc: ...}` of a ModelServer, for the name in its certificate and SNI"
_TIMEOUT = "`timeout` (the whole call) or `tryTimeout` (each attempt) of a ModelRoute"

_SUBJECT = (
    "`workload: {namespace: ..., serviceAccount: ...}` for a ServiceAccount, "
    "`token: {issuer: ..., claims: {groups: ...}}` for a Group, and sub instead of groups for a User"
)
FIELDS: dict[str, tuple[str, str]] = {
    "corsPolicy": (ISTIO, "`cors` of a ModelRoute"),
    # Who calls
    "principals": (ISTIO, _WORKLOAD),
    "source": (ISTIO, "a subject of a ModelRoleBinding"),
    "from": (ISTIO, "`subjects` of a ModelRoleBinding"),
    "namespaces": (ISTIO, "`workload: {namespace: ...}`, one subject for each namespace"),
    "serviceAccounts": (ISTIO, _WORKLOAD),
    "requestPrincipals": (ISTIO, _CLAIMS),
    "when": (ISTIO, "`claims` in the `token` of a subject, or its `headers`"),
    "values": (ISTIO, "`claims: {NAME: {anyOf: [...]}}` in the `token` of a subject"),
    "notValues": (ISTIO, _NOT),
    "remoteIpBlocks": (ISTIO, "`ipBlocks` of a subject: the address of the connection, not of `x-forwarded-for`"),
    "notRemoteIpBlocks": (ISTIO, "`notIpBlocks` of a subject"),
    "networks": (LINKERD, "`ipBlocks` of a subject"),
    "cidr": (LINKERD, "`ipBlocks` of a subject"),
    "notPrincipals": (ISTIO, _NOT),
    "notNamespaces": (ISTIO, _NOT),
    "notRequestPrincipals": (ISTIO, _NOT),
    "notModels": (ISTIO, _NOT),
    "identities": (LINKERD, _WORKLOAD),
    "identityRefs": (LINKERD, _WORKLOAD),
    "meshTLS": (LINKERD, _WORKLOAD),
    "client": (LINKERD, "`subjects` of a ModelRoleBinding"),
    "requiredAuthenticationRefs": (LINKERD, "`subjects` of a ModelRoleBinding"),
    "unauthenticated": (LINKERD, "`mtls: permissive` of the MeshConfig"),
    "roleRef": (KUBERNETES, "`role: NAME`"),
    "trustDomainAliases": (ISTIO, "`trustDomains` of the MeshConfig"),
    # What is called
    "to": (ISTIO, _CALLS),
    "operation": (ISTIO, _CALLS),
    "methods": (ISTIO, _CALLS),
    "paths": (ISTIO, _CALLS),
    "resources": (KUBERNETES, "`models` of a rule"),
    "resourceNames": (KUBERNETES, "`models` of a rule"),
    "apiGroups": (KUBERNETES, "not needed: a rule has `models` and `verbs`"),
    "selector": (ISTIO, _SELECTOR),
    "workloadSelector": (ISTIO, _SELECTOR),
    "targetRef": (LINKERD, _SELECTOR),
    "targetRefs": (ISTIO, _SELECTOR),
    "podSelector": (LINKERD, _SELECTOR),
    # Tokens
    "jwtRules": (ISTIO, "`issuers` of the MeshConfig"),
    "jwksUri": (ISTIO, "`keys: {url: ...}` of an issuer"),
    "jwks": (ISTIO, "`keys: {inline: ...}` of an issuer"),
    "forwardOriginalToken": (ISTIO, "`forwardToken` in `inbound` of the Sidecar"),
    "outputPayloadToHeader": (ISTIO, "`forwardIdentity` in `inbound` of the Sidecar"),
    "outputClaimToHeaders": (ISTIO, "`forwardIdentity` in `inbound` of the Sidecar"),
    "fromHeaders": (ISTIO, "`tokenFrom` of an issuer"),
    "fromCookies": (ISTIO, "`tokenFrom` of an issuer"),
    "fromParams": (ISTIO, "not there: a token in a URL ends up in logs"),
    # Routes
    "http": (ISTIO, "the ModelRoute itself: one route for each set of models"),
    "route": (ISTIO, _SPLIT),
    "destination": (ISTIO, _SPLIT),
    "backendRefs": (GATEWAY, _SPLIT),
    "parentRefs": (GATEWAY, _SELECTOR),
    "hostnames": (GATEWAY, "`hosts` of a ModelServer"),
    "subset": (ISTIO, "`version` or `label` of a share in `split`"),
    "subsets": (ISTIO, "`version` or `label` of a share in `split`"),
    "matches": (GATEWAY, _HEADERS),
    "uri": (ISTIO, _MODELS),
    "path": (GATEWAY, _MODELS),
    "withoutHeaders": (ISTIO, _HEADERS),
    "perTryTimeout": (ISTIO, "`tryTimeout` of the ModelRoute"),
    "per_try_timeout": (ENVOY, "`tryTimeout` of the ModelRoute"),
    "perRetryTimeout": (ISTIO, "`tryTimeout` of the ModelRoute"),
    "requestTimeout": (ENVOY, _TIMEOUT),
    "backendRequest": (GATEWAY, "`tryTimeout` of the ModelRoute"),
    "timeouts": (GATEWAY, _TIMEOUT),
    "deadline": (ENVOY, _TIMEOUT),
    "maxStreamDuration": (ENVOY, _TIMEOUT),
    "streamIdleTimeout": (ENVOY, "`idleTimeout` of the ModelRoute"),
    "retryOn": (ISTIO, "`reasons`, `grpcStatuses` and `httpStatuses` of `retries`"),
    "retry_on": (ENVOY, "`reasons`, `grpcStatuses` and `httpStatuses` of `retries`"),
    "retryableStatusCodes": ("gRPC", "`grpcStatuses` of `retries`"),
    "retriableStatusCodes": (ENVOY, "`httpStatuses` of `retries`"),
    "retry": (GATEWAY, _RETRIES),
    "retryPolicy": (ENVOY, _RETRIES),
    "retry_policy": (ENVOY, _RETRIES),
    "numRetries": (ENVOY, "`attempts` of `retries`, which counts the first one, too"),
    "num_retries": (ENVOY, "`attempts` of `retries`, which counts the first one, too"),
    "maxRetries": (ISTIO, "`attempts` of `retries`, which counts the first one, too"),
    "retryBudget": (LINKERD, "`budgetRatio` and `budgetMin` of `retries`"),
    "retryRatio": (LINKERD, "`budgetRatio` of `retries`"),
    "minRetriesPerSecond": (LINKERD, "`budgetMin` of `retries`"),
    "isRetryable": (LINKERD, _RETRIES),
    "hedgePolicy": (ENVOY, "`hedgeAfter` of `retries`"),
    "fixedDelay": (ISTIO, "`duration` of `delay`"),
    "percentage": (ISTIO, "`percent`"),
    "mirrors": (ISTIO, "`mirror`, one for each ModelRoute"),
    "mirrorPercentage": (ISTIO, "`percent` of `mirror`"),
    "requestMirrorPolicies": (ENVOY, "`mirror`"),
    "localRateLimit": (ENVOY, "`rateLimits`"),
    "rateLimit": (ENVOY, "`rateLimits`"),
    # Servers
    "host": (ISTIO, "the name of a ModelServer, or one of its `hosts`"),
    "trafficPolicy": (ISTIO, "`balancing`, `breaker`, `ejection` and `health` of a ModelServer"),
    "loadBalancer": (ISTIO, "`balancing: {policy: ...}` of a ModelServer"),
    "lbPolicy": (ENVOY, "`balancing: {policy: ...}` of a ModelServer"),
    "lb_policy": (ENVOY, "`balancing: {policy: ...}` of a ModelServer"),
    "consistentHash": (ISTIO, "`balancing: {policy: ring-hash, key: ...}` of a ModelServer"),
    "httpCookie": (ISTIO, "`by: cookie` and `cookie` of a key"),
    "httpHeaderName": (ISTIO, "`by: header` and `header` of a key"),
    "hashPolicy": (ENVOY, _KEY),
    "hash_policy": (ENVOY, _KEY),
    "sessionPersistence": (GATEWAY, "`sticky` of a ModelRoute with `by: cookie`"),
    "stringMatch": (ENVOY, _TEXTS),
    "string_match": (ENVOY, _TEXTS),
    "safeRegex": (ENVOY, "`regex`"),
    "safe_regex": (ENVOY, "`regex`"),
    "localityLbSetting": (ISTIO, "`locality` of endpoints and of the Sidecar"),
    "warmup": (ISTIO, "`warmUp` of `balancing`"),
    "warmupDurationSecs": (ISTIO, "`warmUp` of `balancing`"),
    "slowStart": (ENVOY, "`warmUp` of `balancing`"),
    "connectionPool": (ISTIO, _MAX),
    "http1MaxPendingRequests": (ISTIO, _MAX),
    "http2MaxRequests": (ISTIO, _MAX),
    "circuitBreaker": (ENVOY, "`breaker` of a ModelServer"),
    "circuitBreakers": (ENVOY, "`breaker` of a ModelServer"),
    "circuit_breakers": (ENVOY, "`breaker` of a ModelServer"),
    "failureAccrual": (LINKERD, "`breaker` of a ModelServer"),
    "outlierDetection": (ISTIO, _EJECTION),
    "outlier_detection": (ENVOY, _EJECTION),
    "consecutiveErrors": (ISTIO, "`consecutiveFailures` of `breaker`"),
    "consecutive5xxErrors": (ISTIO, "`consecutiveFailures` of `breaker`"),
    "consecutiveGatewayErrors": (ISTIO, "`consecutiveFailures` of `breaker`"),
    "baseEjectionTime": (ISTIO, "`baseTime` of `ejection`"),
    "maxEjectionPercent": (ISTIO, "`maxPercent` of `ejection`"),
    "minHealthPercent": (ISTIO, "`maxPercent` of `ejection`"),
    "healthChecks": (ENVOY, "`health` of a ModelServer"),
    "health_checks": (ENVOY, "`health` of a ModelServer"),
    "readinessProbe": (KUBERNETES, "`health` of a ModelServer"),
    "resolution": (ISTIO, "`endpoints`, `dns` or `service` of a ModelServer"),
    "caCertificates": (ISTIO, "`caFile` in `tls: {grpc: ...}` of a ModelServer"),
    "clientCertificate": (ISTIO, "`certificate` in `tls: {grpc: ...}` of a ModelServer"),
    "privateKey": (ISTIO, "`key` in `tls: {grpc: ...}` of a ModelServer"),
    "sni": (ISTIO, _SERVER_NAME),
    "subjectAltNames": (ISTIO, _SERVER_NAME),
    "insecureSkipVerify": (ISTIO, "not there: certificates are always verified; write their authority into `caFile`"),
    # Rollouts
    "progressDeadlineSeconds": (FLAGGER, "`progressDeadline`, a duration such as 10m"),
    "iterations": (FLAGGER, "`stepWindows` of `analysis`"),
    "stepWeightPromotion": (FLAGGER, "nothing: the promotion is one step, as the stable version stays where it is"),
    "sessionAffinity": (FLAGGER, "`sticky` of the ModelRollout"),
    "templateRef": (FLAGGER, "not needed: the sidecars measure themselves"),
    "skipAnalysis": (FLAGGER, "nothing in the document: promote it by command"),
    "setWeight": (ARGO, "`stepWeights` of `analysis`"),
    "failureLimit": (ARGO, "`threshold` of `analysis`"),
    # The sidecar and the mesh
    "ingress": (ISTIO, "`inbound` of the Sidecar"),
    "egress": (ISTIO, "`outbound` of the Sidecar"),
    "mode": (ISTIO, "`mtls: strict`, `permissive` or `disabled` of the MeshConfig"),
    "portLevelMtls": (ISTIO, "`mtls` of the MeshConfig, for the only inbound port"),
    "peers": (ISTIO, "`mtls` of the MeshConfig"),
    "concurrency": (ISTIO, "`workers` of the Sidecar"),
    "accessLogFile": (ISTIO, "`accessLog` of the Sidecar"),
    "accessLogging": (ISTIO, "`accessLog` of the Sidecar"),
    "terminationDrainDuration": (ISTIO, "`drainTimeout` of the Sidecar"),
    "holdApplicationUntilProxyStarts": (ISTIO, "a startupProbe of the container"),
    "minProtocolVersion": (ISTIO, "`tls: {minVersion: ...}` of the MeshConfig"),
    "maxRequestBytes": (ENVOY, "`bodyBytes` of `limits`"),
}  # fmt: skip
"""Field -> whose word it is, and what takes its place."""
IN_SUBJECTS = {"kind": (KUBERNETES, _SUBJECT), "apiGroup": (KUBERNETES, _SUBJECT)}
"""The same for words that mean something else elsewhere."""

VALUES: dict[str, str] = {
    "*": "list what is meant: a later release may add more",
    "GET": "a verb is what a model is asked for, such as predict, not an HTTP method",
    "POST": "a verb is what a model is asked for, such as predict, not an HTTP method",
    "get": "a verb is what a model is asked for, such as predict, not one of Kubernetes",
    "list": "a verb is what a model is asked for, such as predict, not one of Kubernetes",
    "ISTIO_MUTUAL": "mtls is strict, permissive or disabled",
    "MUTUAL": "mtls is strict, permissive or disabled",
    "DISABLE": "mtls is strict, permissive or disabled",
    "CUSTOM": "there are no other authorizers",
    "5xx": 'write "gateway-error" for 502, 503 and 504',
    "retriable-4xx": "write the statuses into httpStatuses",
    "retriable-status-codes": "write the statuses into httpStatuses",
    "resource-exhausted": "write RESOURCE_EXHAUSTED into grpcStatuses",
    "deadline-exceeded": "write DEADLINE_EXCEEDED into grpcStatuses",
    "cancelled": "write CANCELLED into grpcStatuses",
    "internal": "write INTERNAL into grpcStatuses",
    "LEAST_REQUEST": 'write "least-request"',
    "LEAST_CONN": 'write "least-request"',
    "ROUND_ROBIN": 'write "round-robin"',
    "RANDOM": 'write "least-request", which is better than random',
    "PASSTHROUGH": "an outbound call needs a ModelServer",
}
"""Word -> what to write, where one of ours is expected."""


def of_kind(kind: str) -> str:
    """What takes the place of a kind of another mesh, as the end of a sentence; empty for any other."""
    found = KINDS.get(kind)
    return f": {kind} is a kind of {found[0]}; here it is {found[1]}" if found else ""


def of_field(name: str, beside: Collection[str]) -> str:
    """The same for the name of a field, where those `beside` it are ours."""
    found = (IN_SUBJECTS if {"workload", "token"}.issubset(beside) else {}).get(name) or FIELDS.get(name)
    return f': "{name}" is a word of {found[0]}; here it is {found[1]}' if found else ""


def of_value(word: str) -> str:
    """The same for a word."""
    found = VALUES.get(word)
    return f": {found}" if found else ""


def is_of_another_mesh(version: str, kind: str) -> bool:
    """Whether a document of this `apiVersion` and `kind` configures another mesh."""
    group = version.partition("/")[0]
    is_rbac = group == "rbac.authorization.k8s.io"  # who may use the API server: a mesh leaves it as it is
    return not is_rbac and kind in KINDS and group.endswith(GROUPS)
