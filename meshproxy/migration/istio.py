"""VirtualService and DestinationRule (networking.istio.io) -> ModelRoute and ModelServer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from meshproxy.config.servers import EjectionSettings
from meshproxy.config.values import read_duration
from meshproxy.migration.source import Kind, Source, Translation

NETWORKING = "networking.istio.io/"
REST_PORT, GRPC_PORT = 8501, 8500
"""Of TensorFlow Serving."""
_MODEL_PATH = re.compile(r"/v1/models/([^/:*]+)(?:[:/].*)?")
_GRPC_PATH = "/tensorflow.serving."
_RETRY_ON = {
    "connect-failure": ("connect-failure",),
    "refused-stream": ("refused-stream",),
    "reset": ("reset", "timeout"),
    "reset-before-request": ("reset",),
    "gateway-error": ("gateway-error", "reset", "connect-failure", "refused-stream", "timeout"),
    "5xx": ("gateway-error", "reset", "connect-failure", "refused-stream", "timeout"),
    "unavailable": ("unavailable",),
}
"""Words of Envoy (`x-envoy-retry-on`, `x-envoy-retry-grpc-on`) and what they are here."""
_RETRY_GRPC = {
    "cancelled": "CANCELLED",
    "deadline-exceeded": "DEADLINE_EXCEEDED",
    "internal": "INTERNAL",
    "resource-exhausted": "RESOURCE_EXHAUSTED",
}
_POLICIES = {
    "ROUND_ROBIN": "round-robin",
    "LEAST_REQUEST": "least-request",
    "LEAST_CONN": "least-request",
    "UNSPECIFIED": "least-request",
}
REASONS = {
    "gateways": "a ModelRoute is of the sidecars",
    "exportTo": "documents are of the mesh",
    "workloadSelector": "documents are of the mesh",
    "tls": "connections between sidecars are mTLS; `tls` of a ModelServer is between a sidecar and a model server",
    "tcp": "calls are REST and gRPC",
    "redirect": "calls of models are not redirected",
    "directResponse": "a sidecar answers no call of its own: `fault` with `abort` refuses a share of the calls",
    "delegate": "write its routes into one document",
    "rewrite": "`split` of a ModelRoute writes another model or version into a call",
    "corsPolicy": "`cors` of a ModelRoute has its own rules: write it by hand",
    "http1MaxPendingRequests": "`concurrency` of a ModelRoute limits what waits",
    "http2MaxRequests": "`concurrency` of a ModelRoute limits what is in flight",
    "maxRequestsPerConnection": "connections end with their certificates",
    "maxRetries": "`budgetRatio` of a ModelRoute's retries",
    "h2UpgradePolicy": "gRPC is HTTP/2, REST is HTTP/1.1",
    "consecutive5xxErrors": "",
    "distribute": "endpoints of the own locality are preferred",
    "failover": "the next locality is whichever has endpoints",
    "labels": "the endpoints of a subset: its dns has to be a Service that selects them",
    "queryParams": "queries of calls are not matched",
    "retryRemoteLocalities": "a retry goes to another endpoint, wherever it is",
}


def virtual_service(source: Source, name: str, namespace: str, translation: Translation) -> None:
    """Translate one VirtualService. `namespace`: of hosts that are given by their short names."""
    spec = source.part("spec")
    routes = spec.parts("http") if spec is not None else []
    if spec is None or not routes:
        source.note("", Kind.REFUSED, "it has no http routes")
        return
    spec.value("hosts")
    for number, route in enumerate(routes, 1):
        if answers := [name for name in ("redirect", "directResponse", "delegate") if route.has(name)]:
            route.note(answers[0], Kind.REFUSED, REASONS[answers[0]])
            route.read_all()
            continue
        matches = route.parts("match")
        route.value("name")
        own = name if len(routes) == 1 else f"{name}-{number}"
        groups = _by_model(matches, route)
        for place, (models, headers) in enumerate(groups, 1):
            made = {
                "models": models,
                "match": [{"headers": each} for each in headers],
                "directions": ["outbound"],
                **_actions(route, namespace, translation),
            }
            translation.add("ModelRoute", own if len(groups) == 1 else f"{own}-{place}", made)
    source.finish(REASONS)


def _by_model(matches: list[Source], route: Source) -> list[tuple[list[str], list[dict[str, Any]]]]:
    """Models, and what headers must be for each of its matches; without matches, all models."""
    if not matches:
        return [(["*"], [])]
    found: dict[str, list[dict[str, Any]]] = {}
    for match in matches:
        model = _model(match)
        if model is not None:
            found.setdefault(model, []).append(_headers(match))
    if not found:
        route.note("match", Kind.REFUSED, "no match is about a model")
    # A model of which one match demands no headers is routed whatever they are.
    return [([model], [] if {} in headers else headers) for model, headers in found.items()]


def _model(match: Source) -> str | None:
    """The model that a match is about; None: it is not translated."""
    uri = match.part("uri")
    if uri is None:
        return "*"
    for how in ("exact", "prefix"):
        path = uri.value(how)
        if not isinstance(path, str):
            continue
        if path in ("/", "/v1", "/v1/", "/v1/models", "/v1/models/") and how == "prefix":
            return "*"
        if path.startswith(_GRPC_PATH):
            match.note("uri", Kind.DIFFERENT, "a route is of models, whatever the method and the protocol")
            return "*"
        if (named := _MODEL_PATH.fullmatch(path)) is not None:
            ends = path.endswith(named[1])
            if path != f"/v1/models/{named[1]}":
                match.note("uri", Kind.DIFFERENT, "a route is of all calls of the model, over REST and gRPC")
            return f"{named[1]}*" if how == "prefix" and ends else named[1]
    match.note("uri", Kind.REFUSED, "it is no path of TensorFlow Serving (/v1/models/NAME...), or a regular expression")
    for name in match.names:
        match.value(name)
    return None


def _headers(match: Source) -> dict[str, Any]:
    headers = match.part("headers")
    if headers is None:
        return {}
    found: dict[str, Any] = {}
    for name in headers.names:
        wanted = headers.value(name)
        found[name.lower()] = wanted or {"present": True}
        if isinstance(wanted, dict) and "exact" in wanted:
            found[name.lower()] = wanted["exact"]
    return found


def _actions(route: Source, namespace: str, translation: Translation) -> dict[str, Any]:
    made: dict[str, Any] = {"timeout": route.value("timeout")}
    split = []
    for destination in route.parts("route"):
        server = _server(destination.part("destination"), namespace, translation)
        if server is not None:
            split.append({"server": server, "weight": destination.value("weight")})
    if len(split) == 1:
        made["server"] = split[0]["server"]
    elif split:
        made["split"] = split
    if (retries := route.part("retries")) is not None:
        made |= _retries(retries)
    for field in ("mirror", "mirrors"):
        targets = [route.part("mirror")] if field == "mirror" else route.parts("mirrors")
        for target in filter(None, targets):
            if "mirror" in made:
                target.note("", Kind.LEFT_OUT, "a ModelRoute has one mirror")
                target.read_all()
            else:
                made["mirror"] = _mirror(target, route, namespace, translation)
                if made["mirror"]["server"] in [share["server"] for share in split]:
                    target.note("", Kind.DIFFERENT, "calls whose share goes there are not mirrored")
    if (fault := route.part("fault")) is not None:
        made["fault"] = _fault(fault)
    return made


def _retries(retries: Source) -> dict[str, Any]:
    attempts = retries.value("attempts")
    reasons: dict[str, None] = {}
    grpc: list[str] = []
    http: list[int] = []
    words = str(retries.value("retryOn") or "")
    for word in filter(None, (part.strip() for part in words.split(","))):
        if word in _RETRY_ON:
            reasons.update(dict.fromkeys(_RETRY_ON[word]))
            if word == "5xx":
                http.append(500)
        elif word in _RETRY_GRPC:
            grpc.append(_RETRY_GRPC[word])
        elif word.isdigit() and 400 <= int(word) <= 599:
            http.append(int(word))
        elif word != "retriable-status-codes":
            retries.note("retryOn", Kind.LEFT_OUT, f"{word} is no reason for a retry here")
    try_timeout = retries.value("perTryTimeout")
    if try_timeout is None:
        reasons.pop("timeout", None)  # of an attempt: there is no such limit
    return {
        "retries": {
            # Istio counts retries, this counts attempts.
            "attempts": min(int(attempts) + 1, 10) if isinstance(attempts, int) else None,
            "reasons": list(reasons),
            "grpcStatuses": grpc,
            "httpStatuses": http,
        },
        "tryTimeout": try_timeout,
    }


def _mirror(target: Source, route: Source, namespace: str, translation: Translation) -> dict[str, Any]:
    percentage = route.part("mirrorPercentage") or target.part("percentage")
    inner = target.part("destination") or target
    percent = percentage.value("value") if percentage is not None else None
    return {"server": _server(inner, namespace, translation), "percent": percent}


def _fault(fault: Source) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if (delay := fault.part("delay")) is not None:
        made["delay"] = {"percent": _percentage(delay), "duration": delay.value("fixedDelay")}
    if (abort := fault.part("abort")) is not None:
        made["abort"] = {"percent": _percentage(abort), "httpStatus": abort.value("httpStatus")}
    return made


def _percentage(part: Source) -> object:
    percentage = part.part("percentage")
    value = percentage.value("value") if percentage is not None else part.value("percent")
    return 100 if value is None else value


# Servers


def _server(destination: Source | None, namespace: str, translation: Translation) -> str | None:
    """The name of the ModelServer for a destination, which is written, too, unless a DestinationRule does."""
    host = destination.value("host") if destination is not None else None
    if destination is None or not isinstance(host, str):
        return None
    subset = destination.value("subset")
    name = server_name(host, subset)
    port = destination.part("port")
    number = port.value("number") if port is not None else None
    if not any(each["kind"] == "ModelServer" and each["metadata"]["name"] == name for each in translation.documents):
        translation.add("ModelServer", name, {"dns": _dns(host, namespace, number)})
    return name


def server_name(host: str, subset: object) -> str:
    """Of a host and a subset of it."""
    short = re.sub(r"[^a-z0-9-]", "-", host.lower().partition(".svc")[0].partition(".")[0]).strip("-") or "server"
    return f"{short}-{subset}" if subset else short


def _dns(host: str, namespace: str, port: object) -> dict[str, Any]:
    name = host if "." in host else f"{host}.{namespace}.svc.cluster.local"
    if port == GRPC_PORT:
        return {"name": name, "grpc": port}
    if port is not None:
        return {"name": name, "rest": port}
    return {"name": name, "rest": REST_PORT, "grpc": GRPC_PORT}


def destination_rule(source: Source, namespace: str, translation: Translation) -> None:
    """Translate one DestinationRule: a ModelServer for the host, and one for each subset."""
    spec = source.part("spec")
    host = spec.value("host") if spec is not None else None
    if spec is None or not isinstance(host, str) or "*" in host:
        source.note("", Kind.REFUSED, "it has no host, or one with a wildcard: endpoints are found by a name")
        return
    common = spec.part("trafficPolicy")
    shared = _settings(common) if common is not None else {}
    subsets: list[tuple[object, dict[str, Any]]] = [(None, {})]
    for subset in spec.parts("subsets"):
        own = subset.part("trafficPolicy")
        subsets.append((subset.value("name"), _settings(own) if own is not None else {}))
    for subset_name, settings in subsets:
        name = server_name(host, subset_name)
        known = next((each for each in translation.documents if each["metadata"]["name"] == name), None)
        dns = known["spec"]["dns"] if known is not None else _dns(host, namespace, None)
        if known is not None:
            translation.documents.remove(known)
        translation.add("ModelServer", name, {"dns": dns, **shared, **settings})
    source.finish(REASONS)


def _settings(policy: Source) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if (pool := policy.part("connectionPool")) is not None:
        tcp, http = pool.part("tcp"), pool.part("http")
        if tcp is not None:
            made["maxConnections"] = tcp.value("maxConnections")
            made["connectTimeout"] = tcp.value("connectTimeout")
        if http is not None:
            made["idleTimeout"] = http.value("idleTimeout")
    if (balancer := policy.part("loadBalancer")) is not None:
        made["balancing"] = dict(_balancing(balancer))
    if (outliers := policy.part("outlierDetection")) is not None:
        made["breaker"], made["ejection"] = _outliers(outliers)
    if (tls := policy.part("tls")) is not None and tls.value("mode") in ("ISTIO_MUTUAL", "DISABLE"):
        if tls.value("mode") == "DISABLE":
            tls.note("mode", Kind.DIFFERENT, "without workload, a ModelServer is called in plain text")
        else:
            tls.note("mode", Kind.DIFFERENT, "name the sidecar's port and workload in the ModelServer for mTLS")
    return made


def _balancing(balancer: Source) -> Iterator[tuple[str, Any]]:
    simple = balancer.value("simple")
    if simple in _POLICIES:
        yield "policy", _POLICIES[simple]
    elif simple is not None:
        balancer.note("simple", Kind.LEFT_OUT, f"{simple}: the default, least-request, is used")
    if (consistent := balancer.part("consistentHash")) is not None:
        header, cookie = consistent.value("httpHeaderName"), consistent.part("httpCookie")
        if isinstance(header, str):
            yield "policy", "ring-hash"
            yield "key", {"by": "header", "header": header.lower()}
        elif cookie is not None:
            yield "policy", "ring-hash"
            yield "key", {"by": "cookie", "cookie": {name: cookie.value(name) for name in ("name", "path", "ttl")}}
    if (locality := balancer.part("localityLbSetting")) is not None and locality.has("enabled"):
        yield "preferLocality", bool(locality.value("enabled"))
    if (warm_up := balancer.value("warmupDurationSecs")) is not None:
        yield "warmUp", warm_up


def _is_long(time: object) -> bool:
    """Longer than the longest ejection."""
    try:
        return read_duration(time) > EjectionSettings().max_time
    except ValueError:
        return False


def _outliers(outliers: Source) -> tuple[dict[str, Any], dict[str, Any]]:
    """Breaker and ejection. Envoy ejects after errors in a row: here a breaker does; ejection compares endpoints."""
    breaker: dict[str, Any] = {}
    for name in ("consecutive5xxErrors", "consecutiveGatewayErrors", "consecutiveErrors"):
        count = outliers.value(name)
        if isinstance(count, int) and count > 0:
            breaker["consecutiveFailures"] = min(count, breaker.get("consecutiveFailures", count))
        elif count == 0:
            outliers.note(name, Kind.DIFFERENT, "0 switches this off in Istio: a breaker counts all failures in a row")
    base = outliers.value("baseEjectionTime")
    ejection = {
        "interval": outliers.value("interval"),
        "baseTime": base,
        "maxTime": base if _is_long(base) else None,
        "maxPercent": outliers.value("maxEjectionPercent"),
    }
    if base is not None:
        outliers.note(
            "baseEjectionTime", Kind.DIFFERENT, "of endpoints that are worse than others; a breaker opens for openFor"
        )
    return breaker, ejection
