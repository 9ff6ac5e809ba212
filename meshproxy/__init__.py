"""meshproxy: a sidecar proxy for TensorFlow Serving that knows what a model is.

A **transport** hands bytes to a **codec**; the request's head meets **identity** (who), **inference** (which model),
**policy** (may they), **routing** (where to); an **upstream** is picked; the **proxy** carries the exchange;
**telemetry** reads the finished record. `sidecar` assembles these parts into a process.

    config/      the documents: schema, loading, checking. Stations compile them; no request reads them
    refusal.py   every reason for which we answer ourselves, and what it means on the wire
    codec/       bytes <-> events: HTTP/1.1, HTTP/2, the framing of gRPC. Pure: no event loop, no clock, no config
    transport/   events <-> sockets: the only asyncio under the proxy
    identity/    who calls: the SPIFFE id of the peer's certificate, the claims of a token, an AWS IAM role
    inference/   what is called: verb, model, version or label, signature, read off each wire surface
    policy/      may they: roles and bindings, compiled once
    routing/     where to, and what if that fails: routes, compiled once
    upstream/    model servers: which there are, how they are, which of them is next, and connections to them
    proxy/       the way of a request. READ `proxy/pipeline.py` FIRST
    telemetry/   what is told of an exchange that is over: metrics, access log, audit trail; traces carried on
    sidecar/     the data plane's process: both directions built in order on one page, reloaded, drained; the admin port
    devtools/    what stands around it in the demo and the tests: model server, issuer, development CA, load generator
    cli/         the commands

Who stands further down this list may import who stands above, never the other way (`[tool.importlinter]` in
pyproject.toml). Three things go back against the stream of a request, each through one door: credit (`Stream.credit`:
who takes a piece of a body lets its sender go on), outcomes (`Endpoint.succeeded`, `failed`, `cancelled`: breakers,
ejection and balancers learn from every try) and configuration (a new `Snapshot`, built whole beside the old one,
replaces it; a request keeps the one it began with).
"""

__version__ = "0.1.0"
