"""meshproxy itself, everything on: mTLS, JWT, RBAC with the model of a gRPC call read from its body, metrics, log."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.credentials import AUDIENCE, GROUP, ISSUER, TRUST_DOMAIN
from benchmarks.peers.peer import Running, Setting
from benchmarks.processes import Child, free_port
from meshproxy import __version__

API = "meshproxy.dev/v1alpha1"


class Meshproxy:
    name = "meshproxy"
    checks = "client certificate, JWT (cached), RBAC on SPIFFE id, claims and model; of gRPC the model in the body"

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return __version__

    def start(self, setting: Setting) -> Running:
        port, admin = free_port(), free_port()
        file = setting.folder / "sidecar.yaml"
        file.write_text(yaml.safe_dump_all(documents(setting, port, admin), sort_keys=False))
        command = [str(Path(sys.executable).with_name("meshproxy")), "sidecar", "--config", str(file)]
        child = Child(self.name, command, setting.cores, setting.folder / "access.log")
        child.wait_for_port(port)
        return Running(port, port, child, sees_grpc_model=True)


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
    files = {
        "certificate": str(credentials.certificate("server")),
        "key": str(credentials.key("server")),
        "trustBundle": str(credentials.bundle),
    }
    endpoint = {"rest": f"127.0.0.1:{setting.rest_upstream}", "grpc": f"127.0.0.1:{setting.grpc_upstream}"}
    # Idle connections are kept for an hour, as Envoy does by default: thousands take minutes to open on a busy machine.
    limits = {"idleTimeout": "1h"}
    mesh = {"trustDomain": TRUST_DOMAIN, "mtls": "strict", "issuers": [issuer], "limits": limits}
    found = [
        _document("MeshConfig", "mesh", mesh),
        _document("ModelServer", "local", {"endpoints": [endpoint]}),
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
    for number in range(setting.rules.models):
        role = f"role-{number:05d}"
        found.append(_document("ModelRole", role, {"rules": _rules(setting, number)}))
        binding = {"role": role, "action": "allow", "subjects": [subject]}
        found.append(_document("ModelRoleBinding", f"binding-{number:05d}", binding))
    return found


def _rules(setting: Setting, number: int) -> list[dict[str, Any]]:
    """A model's share of the rules: one for each of some versions, and at the end the one that covers our calls."""
    models, verbs = [setting.rules.model_of(number)], ["predict", "classify", "regress"]
    share = setting.rules.count // setting.rules.models
    versions = [{"models": models, "versions": [version], "verbs": verbs} for version in range(1, share)]
    return [*versions, {"models": models, "verbs": verbs}]


def _document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec}
