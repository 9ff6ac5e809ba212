"""Documents with one thing wrong that the API server of Kubernetes finds as well, by the rules of `config.crds`."""

from __future__ import annotations

from typing import Any

HEAD = {"apiVersion": "meshproxy.dev/v1alpha1", "metadata": {"name": "unfit"}}


def _mesh(**spec: Any) -> dict[str, Any]:
    return {**HEAD, "kind": "MeshConfig", "spec": {"trustDomain": "m.example", **spec}}


def _issuer(**fields: Any) -> dict[str, Any]:
    return _mesh(issuers=[{"name": "i", "issuer": "https://i.example", **fields}])


def _binding(subject: dict[str, Any]) -> dict[str, Any]:
    return {**HEAD, "kind": "ModelRoleBinding", "spec": {"role": "r", "subjects": [subject]}}


def _role(**fields: Any) -> dict[str, Any]:
    return {**HEAD, "kind": "ModelRole", "spec": {"rules": [{"models": ["*"], "verbs": ["predict"], **fields}]}}


def _route(**spec: Any) -> dict[str, Any]:
    return {**HEAD, "kind": "ModelRoute", "spec": {"models": ["*"], **spec}}


def _server(**spec: Any) -> dict[str, Any]:
    return {**HEAD, "kind": "ModelServer", "spec": spec}


def _endpoint(**fields: Any) -> dict[str, Any]:
    return _server(endpoints=[fields])


def _sidecar(**spec: Any) -> dict[str, Any]:
    return {**HEAD, "kind": "Sidecar", "spec": spec}


def _rollout(**metric: Any) -> dict[str, Any]:
    metrics = [{"name": "request-duration", **metric}]
    spec = {"model": "m", "stable": {"version": 1}, "candidate": {"version": 2}, "analysis": {"metrics": metrics}}
    return {**HEAD, "kind": "ModelRollout", "spec": spec}


INBOUND = {"server": "s"}
FILES = {"certificate": "c", "key": "k", "trustBundle": "b"}
API = {"rest": "a:1"}
BALANCER = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/models/50dc6c495c0c9188"

UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "two sources of keys": (_issuer(audiences=["a"], keys={"file": "a", "url": "https://a"}), "exactly one of"),
    "no source of keys": (_issuer(audiences=["a"], keys={}), "exactly one of"),
    "an issuer of tokens for anyone": (_issuer(), "requiredClaims"),
    "a token for servers of any authority": (_issuer(audiences=["a"], bearerTokenFile="t"), "caFile"),
    "load balancers without a place": (_issuer(audiences=["a"], loadBalancers=[BALANCER]), "requires tokenFrom"),
    "a token in no place": (_issuer(audiences=["a"], tokenFrom={}), "exactly one of header"),
    "a token in two places": (
        _issuer(audiences=["a"], tokenFrom={"header": "h", "cookie": "c"}), "exactly one of header",
    ),
    "no bundle": (_mesh(trustDomains=[{"name": "n.example", "bundle": {}}]), "exactly one of"),
    "versions and labels": (_role(versions=[1], labels=["l"]), "write two rules"),
    "a whole SPIFFE id and more": (
        _binding({"workload": {"spiffeId": "spiffe://m.example/a", "namespace": "n"}}), "spiffeId",
    ),
    "a workload without a name": (_binding({"workload": {}}), "spiffeId"),
    "nobody": (_binding({}), "workload"),
    "a caller who is nobody": (_route(match=[{"caller": {}}]), "workload"),
    "a match of everything": (_route(match=[{}]), "headers"),
    "version and label": (_route(split=[{"version": 1, "label": "l", "weight": 1}]), "never both"),
    "a mirror to the same": (_route(mirror={"percent": 1}), "server"),
    "a mirror to both": (_route(mirror={"version": 1, "label": "l"}), "never both"),
    "a fault that is none": (_route(fault={}), "delay"),
    "a limit of nothing": (_route(rateLimits=[{}]), "requests"),
    "browsers that match": (
        _route(match=[{"headers": {"a": "b"}}], cors={"allowOrigins": ["https://a"]}), "exclude each other",
    ),
    "a sidecar and more": (_endpoint(sidecar="a:1", rest="a:2"), "leave"),
    "an endpoint without an address": (_endpoint(locality="z"), "expected"),
    "a certificate without its key": (
        _server(endpoints=[API], tls={"rest": {"certificate": "c"}}), "belong together",
    ),
    "TLS for nothing": (_server(endpoints=[API], tls={}), "expected"),
    "ports beside SRV": (_server(dns={"name": "a", "srv": "rest", "rest": 1}), "records have ports"),
    "a name without ports": (_server(dns={"name": "a"}), "expected"),
    "a name for both": (_server(dns={"name": "a", "rest": 1, "sidecar": 2}), "leave"),
    "a Service without ports": (_server(service={"namespace": "n", "name": "s"}), "expected"),
    "a Service of sidecars and more": (
        _server(service={"namespace": "n", "name": "s", "sidecar": "a", "rest": ""}), "leave",
    ),
    "endpoints twice": (_server(endpoints=[API], dns={"name": "a", "rest": 1}), "endpoints"),
    "no endpoints": (_server(), "endpoints"),
    "two identities": (
        _sidecar(inbound=INBOUND, identity={"files": FILES, "workloadApi": {"socket": "s"}}), "exactly one of",
    ),
    "no port": (_sidecar(), "inbound"),
    "an identity and a control plane": (
        _sidecar(
            inbound=INBOUND, identity={"files": FILES},
            controlPlane={"address": "a:1", "spiffeId": "spiffe://m.example/c", "trustBundle": "b", "folder": "f"},
        ),
        "keep one",
    ),
    "a range without an end": (_rollout(thresholdRange={}), "min, max or both"),
    "an unknown verb": (_role(verbs=["guess"]), "predict"),
    "an empty list": (_role(verbs=[]), ""),
    "a duration of a dog": (_route(timeout="7 dogs"), ""),
    "a size of a dog": (_mesh(limits={"headerBytes": "1dog"}), ""),
    "too small": (_mesh(limits={"headerCount": 1}), "16"),
    "too many per cent": (_route(mirror={"server": "s", "percent": 101}), "100"),
    "no field of ours": (_route(modles=["*"]), "modles"),
    "nothing to match": ({**HEAD, "kind": "ModelRoute", "spec": {}}, "models"),
}  # fmt: skip
"""By what is wrong: the document, and what both say of it."""
