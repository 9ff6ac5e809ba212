"""meshproxy itself, everything on: mTLS, JWT, RBAC with the model of a gRPC call read from its body, metrics, log."""

from __future__ import annotations

import compileall
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml

from benchmarks.credentials import AUDIENCE, GROUP, ISSUER, TRUST_DOMAIN
from benchmarks.peers.peer import Running, Setting
from benchmarks.processes import Chain, Child, free_port
from meshproxy import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

API = "meshproxy.dev/v1alpha1"
COMPILED = ("meshproxy", "msgspec", "uvloop", "cryptography", "typing_extensions")
"""What a sidecar loads beside the standard library."""


class Meshproxy:
    name = "meshproxy"
    checks = "client certificate, JWT (cached), RBAC on SPIFFE id, claims and model; of gRPC the model in the body"
    exports = False
    """Spans arrive at the sink."""
    variables: Mapping[str, str] = MappingProxyType({})
    """Of its environment."""

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return __version__

    def start(self, setting: Setting) -> Running:
        port, admin = free_port(), free_port()
        file = setting.folder / "sidecar.yaml"
        file.write_text(yaml.safe_dump_all(self.documents(setting, port, admin), sort_keys=False))
        inbound = self._run(setting, file, port, "access.log")
        if setting.hops == 1:
            return Running(port, port, inbound, sees_grpc_model=True, exports=self.exports)
        entry = free_port()
        file = setting.folder / "outbound.yaml"
        file.write_text(yaml.safe_dump_all(outbound_documents(setting, entry, port), sort_keys=False))
        outbound = self._run(setting, file, entry, "outbound.log")
        return Running(entry, entry, Chain(outbound, inbound), is_tls=False, sees_grpc_model=True)

    def documents(self, setting: Setting, port: int, admin: int) -> list[dict[str, Any]]:
        """What the sidecar beside the model server is started with."""
        return documents(setting, port, admin)

    def _run(self, setting: Setting, file: Path, port: int, log: str) -> Child:
        compile_modules()
        command = [str(Path(sys.executable).with_name("meshproxy")), "sidecar", "--config", str(file)]
        child = Child(self.name, command, setting.cores, setting.folder / log, self.variables)
        child.wait_for_port(port)
        return child


@cache
def compile_modules() -> None:
    """As in the image: a process that compiles what it imports keeps memory of the compiler, 3 MB."""
    for name in COMPILED:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            path = Path(spec.origin)
            if spec.submodule_search_locations is None:
                compileall.compile_file(path, quiet=2)
            else:
                compileall.compile_dir(path.parent, quiet=2)


def outbound_documents(setting: Setting, port: int, peer: int) -> list[dict[str, Any]]:
    """What the sidecar beside the caller is started with: the defaults, which balance, break and try again."""
    files = _files(setting, "client")
    server = {
        "endpoints": [{"sidecar": f"127.0.0.1:{peer}"}],
        "workload": {"namespace": "serving", "serviceAccount": "models"},
    }
    outbound = {"listen": f"127.0.0.1:{port}", "server": "models"}
    spec = {
        "identity": {"files": files},
        "outbound": outbound,
        "admin": {"listen": f"127.0.0.1:{free_port()}"},
        "accessLog": "stdout",
    }
    return [
        _document(
            "MeshConfig", "mesh", {"trustDomain": TRUST_DOMAIN, "mtls": "strict", "limits": {"idleTimeout": "1h"}}
        ),
        _document("ModelServer", "models", server),
        _document("Sidecar", "bench", spec),
    ]


def _files(setting: Setting, who: str) -> dict[str, str]:
    credentials = setting.credentials
    return {
        "certificate": str(credentials.certificate(who)),
        "key": str(credentials.key(who)),
        "trustBundle": str(credentials.bundle),
    }


def documents(setting: Setting, port: int, admin: int) -> list[dict[str, Any]]:
    """What the sidecar is started with."""
    credentials = setting.credentials
    subject = {
        "workload": {"namespace": "pricing", "serviceAccount": "quoter"},
        "token": {"issuer": "corp", "claims": {"groups": GROUP}},
    }
    issuer = {
        "name": "corp",
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "algorithms": ["RS256"],
        "keys": {"file": str(credentials.jwks)},
    }
    files = _files(setting, "server")
    # Idle connections are kept for an hour, as Envoy does by default: thousands take minutes to open on a busy machine.
    limits = {"idleTimeout": "1h"}
    mesh = {"trustDomain": TRUST_DOMAIN, "mtls": "strict", "issuers": [issuer], "limits": limits}
    found = [
        _document("MeshConfig", "mesh", mesh),
        _document("ModelServer", "local", _server(setting)),
        _document(
            "Sidecar",
            "bench",
            {
                "identity": {"files": files},
                "inbound": {"listen": f"127.0.0.1:{port}", "server": "local"},
                "admin": {"listen": f"127.0.0.1:{admin}"},
                "accessLog": "stdout",
            }
            | ({"workers": setting.workers} if setting.workers > 1 else {}),
        ),
    ]
    if setting.resilience != "default":
        retries = {"attempts": 1} if setting.resilience == "off" else {"attempts": 3}
        found.append(_document("ModelRoute", "all", {"models": ["*"], "retries": retries}))
    for number in range(setting.rules.models):
        role = f"role-{number:05d}"
        found.append(_document("ModelRole", role, {"rules": _rules(setting, number)}))
        binding = {"role": role, "action": "allow", "subjects": [subject]}
        found.append(_document("ModelRoleBinding", f"binding-{number:05d}", binding))
    return found


def _server(setting: Setting) -> dict[str, Any]:
    """The model server: once, or under three addresses, with all that a set of endpoints is looked after by or none."""
    hosts = ["127.0.0.1"] if setting.resilience == "default" else ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    endpoints = [
        {"rest": f"{host}:{setting.rest_upstream}", "grpc": f"{host}:{setting.grpc_upstream}"} for host in hosts
    ]
    server: dict[str, Any] = {"endpoints": endpoints}
    if setting.resilience == "off":
        server |= {
            "breaker": {"enabled": False},
            "ejection": {"enabled": False},
            "balancing": {"policy": "round-robin"},
        }
    if setting.resilience == "on":
        server |= {"breaker": {"successRate": 0.8}, "ejection": {}, "health": {"check": "tcp"}}
    return server


def _rules(setting: Setting, number: int) -> list[dict[str, Any]]:
    """A model's share of the rules: one for each of some versions, and at the end the one that covers our calls."""
    models, verbs = [setting.rules.model_of(number)], ["predict", "classify", "regress"]
    share = setting.rules.count // setting.rules.models
    versions = [{"models": models, "versions": [version], "verbs": verbs} for version in range(1, share)]
    return [*versions, {"models": models, "verbs": verbs}]


def _document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec}
