"""The aiohttp relay and the grpc.aio relay as peers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from dataclasses import asdict

from benchmarks.credentials import AUDIENCE, CLIENT_ID, GROUP, ISSUER
from benchmarks.peers.peer import Running, Setting
from benchmarks.processes import Child, free_port, python
from benchmarks.relays.checks import Settings


class Relay:
    """One of the two."""

    def __init__(self, name: str, package: str, module: str, checks: str) -> None:
        self.name = name
        self.checks = checks
        self._package = package
        self._module = module

    def missing(self) -> str | None:
        found = importlib.util.find_spec(self._package)
        return None if found else f"the package {self._package}"

    def version(self) -> str:
        return importlib.metadata.version("grpcio" if self._package == "grpc" else self._package)

    def start(self, setting: Setting) -> Running:
        port = free_port()
        is_rest = self._package == "aiohttp"
        credentials = setting.credentials
        settings = Settings(
            port=port,
            upstream=setting.rest_upstream if is_rest else setting.grpc_upstream,
            certificate=str(credentials.certificate("server")),
            key=str(credentials.key("server")),
            bundle=str(credentials.bundle),
            jwks=str(credentials.jwks),
            issuer=ISSUER,
            audience=AUDIENCE,
            group=GROUP,
            workload=CLIENT_ID,
            models=sorted({setting.rules.model_of(number) for number in range(setting.rules.count)}),
        )
        file = setting.folder / "relay.json"
        file.write_text(json.dumps(asdict(settings)))
        child = Child(self.name, python("-m", self._module, str(file)), setting.cores, setting.folder / "access.log")
        child.wait_for_port(port)
        return Running(port if is_rest else None, None if is_rest else port, child)


AIOHTTP = Relay(
    "aiohttp",
    "aiohttp",
    "benchmarks.relays.aiohttp_relay",
    "client certificate, JWT (cached), SPIFFE id, claims and model",
)
GRPC_AIO = Relay(
    "grpc.aio",
    "grpc",
    "benchmarks.relays.grpc_relay",
    "client certificate, JWT (cached), SPIFFE id, claims; of the call the path only",
)
