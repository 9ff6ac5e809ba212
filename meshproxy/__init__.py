"""meshproxy: a model-aware sidecar proxy for TensorFlow Serving.

A **transport** hands bytes to a **codec**; the request's head meets **identity** (caller), **inference** (call),
**policy** (authorization) and **routing**; an **upstream** endpoint is picked; the **proxy** carries the exchange;
**telemetry** reads the completed record. `sidecar` assembles these parts into a process.

    config/      the documents: schema, loading, checking. Stations compile them; no request reads them
    refusal.py   every reason for a local response, and its form on the wire
    codec/       bytes <-> events: HTTP/1.1, HTTP/2, the framing of gRPC. Pure: no event loop, no clock, no config
    transport/   events <-> sockets: the only asyncio under the proxy
    identity/    the caller: the SPIFFE id of the peer's certificate, the claims of a token, an AWS IAM role
    inference/   the call: verb, model, version or label, signature, read from each wire surface
    policy/      authorization: roles and bindings, compiled once
    routing/     routes, compiled once: split, retries, rate limits, concurrency, faults, mirrors
    upstream/    model servers: discovery, health, circuit breakers, load balancing and connection pools
    proxy/       the pipeline of a request. READ `proxy/pipeline.py` FIRST
    audit/       the audit trail as a text: its lines, their chain, whether it is as it was written. Pure
    telemetry/   records of completed exchanges: metrics, access log, audit trail; trace context
    rollout/     whether a new version is as good as the stable one: windows, sequential tests, the judge. Pure
    view/        what the reports of all sidecars come to: who calls which model, and how it is. Pure
    injection/   how a pod of Kubernetes gets its sidecar. Pure: from a pod to a patch
    migration/   documents of Istio and Flagger, translated. Pure
    monitoring/   alert rules and Grafana boards, generated into deploy/. Pure
    installation/ what a mesh needs in a cluster, as objects of Kubernetes. Pure
    web/         the page of the mesh: routes, login, what each role may see. It only reads
    control/     the control plane: issues the identities of sidecars. `control_api.py` is what the two say
    sidecar/     the process: assembly of both directions, reload, drain, workers; the admin port
    devtools/    the environment of the demo and the tests: model server, issuer, development CA, load generator
    cli/         the commands

A package may import those above it in this list, never those below (`[tool.importlinter]` in
pyproject.toml). Three things flow against the direction of a request, each at one place: credit (`Stream.credit`:
a consumer of a part of a body returns its credit to the sender), outcomes (`Endpoint.succeeded`, `failed`, `cancelled`:
breakers, ejection and balancers learn from every try) and configuration (a new `Snapshot`, built whole beside the old
one, replaces it; a request keeps the one it began with).
"""

__version__ = "0.1.0"
