"""The metrics of running sidecars: those of docs/metrics.md, with its labels, and named as in the access log and in
`/config`. A model server's sidecar, an application's sidecar that calls it, and every kind of call through both."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshproxy.devtools.clients import GrpcClient, RestClient
from meshproxy.devtools.local_mesh import CLIENT, LocalSidecar, document, local_mesh, server_of
from tests.processes.calls import PATH, PREDICT, REQUEST
from tests.processes.waiting import json_lines, until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "metrics.md"
CONTENT = {"instances": [1.0]}
CALLS = 5
"""REST and gRPC, answered; a model that no role names; a REST path that there is not; a model without an endpoint."""


@dataclass
class Page:
    """What one sidecar shows and has logged."""

    text: str
    config: dict[str, Any]
    log: list[dict[str, Any]]

    @cached_property
    def series(self) -> list[tuple[str, dict[str, str], float]]:
        """Name, labels and value of each line."""
        found = re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", self.text, re.MULTILINE)
        return [(name, dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for name, labels, value in found]

    def values(self, label: str, *names: str) -> set[str]:
        """The values of a label, of some metrics or of all."""
        return {labels[label] for name, labels, _ in self.series if label in labels and (not names or name in names)}

    def total(self, name: str, **wanted: str) -> float:
        return sum(value for found, labels, value in self.series if found == name and wanted.items() <= labels.items())

    @property
    def endpoints(self) -> set[str]:
        """As `/config` names them."""
        return {each["endpoint"] for server in self.config["servers"].values() for each in server["endpoints"]}

    def logged(self, field: str) -> set[Any]:
        return {line[field] for line in self.log} - {None}


async def read(sidecar: LocalSidecar, log: Path) -> Page:
    async with aiohttp.ClientSession(f"http://{sidecar.admin}") as session:
        async with session.get("/metrics") as response:
            text = await response.text()
        async with session.get("/config") as response:
            config = await response.json()
    return Page(text, config, json_lines(log))


@asynccontextmanager
async def called(folder: Path) -> AsyncIterator[tuple[Page, Page]]:
    """The pages of the model server's sidecar and of the application's, after `CALLS`."""
    refused = document("ModelRole", {"rules": [{"models": ["payroll"], "verbs": ["predict"]}]}, "payroll")
    caller = {"workload": {"namespace": CLIENT[0], "serviceAccount": CLIENT[1]}}
    deny = document("ModelRoleBinding", {"role": "payroll", "action": "deny", "subjects": [caller]}, "no-payroll")
    async with local_mesh(folder) as mesh:
        logs = [folder / "inbound.log", folder / "outbound.log"]
        replica = await mesh.replica(sidecar={"accessLog": str(logs[0])}, documents=[refused, deny])
        gone = document("ModelServer", {"endpoints": [{"rest": "127.0.0.1:9"}]}, "gone")
        assert replica.sidecar is not None
        application = await mesh.application(
            [server_of([replica]), gone], sidecar={"accessLog": str(logs[1])}, outbound={"server": "models"}
        )
        async with RestClient(application.outbound, None) as rest, GrpcClient(application.outbound, None) as grpc:
            answers = [
                await rest.call("POST", PATH, CONTENT),
                await grpc.call(PREDICT, REQUEST),
                await rest.call("POST", "/v1/models/payroll:predict", CONTENT),
                await rest.call("POST", "/v2/models", CONTENT),
                await rest.call("POST", PATH, CONTENT, {"x-model-server": "gone"}),
            ]
        assert [answer.status for answer in answers] == ["200", "OK", "403", "404", "503"]
        await until(lambda: [log.read_text().count("\n") for log in logs] == [3, CALLS])
        yield await read(replica.sidecar, logs[0]), await read(application, logs[1])


def documented(but: Iterable[str] = ()) -> dict[str, set[str]]:
    """Label names by metric, as the tables of the page say; without some of its sections."""
    found: dict[str, set[str]] = {}
    section = ""
    for line in DOCUMENTATION.read_text().splitlines():
        if line.startswith("### "):
            section = line.removeprefix("### ")
        elif (row := re.match(r"\| `(\w+)` \| \w+ \| ([^|]*) \|", line)) and section not in but:
            found[row[1]] = set(re.findall(r"`(\w+)`", row[2]))
    return found


async def test_a_sidecar_shows_what_the_documentation_says_under_the_same_names_everywhere(tmp_path: Path) -> None:
    async with called(tmp_path / "mesh") as pages:
        for direction, page in zip(("inbound", "outbound"), pages, strict=True):
            # Of the load of a model server nothing is known elsewhere.
            elsewhere = ["Scaling"] if direction == "outbound" else []
            said = documented(but=["Supervisor", "Control plane", *elsewhere])
            assert set(re.findall(r"^# TYPE (\w+) ", page.text, re.MULTILINE)) == said.keys()
            for name, labels, _ in page.series:
                stem = name if name in said else re.sub("_(bucket|sum|count)$", "", name)
                assert labels.keys() - {"le"} == said[stem], name
            assert page.values("direction") - {""} == {direction}
            # Protocols.
            assert page.logged("protocol") == page.values("protocol", "meshproxy_requests_total")
            assert page.values("protocol") <= {"HTTP/1.1", "HTTP/2"}
            # Endpoints: one address in the log, all of an endpoint elsewhere.
            assert page.values("endpoint") == page.endpoints
            assert page.logged("upstream_host") <= {address for each in page.endpoints for address in each.split(",")}
            # Policies.
            assert page.values("policy") <= page.logged("policy")

        inbound, outbound = pages
        assert inbound.values("policy", "meshproxy_authz_decisions_total") == {"client", "no-payroll"}
        assert outbound.values("policy") == set()
        assert len(inbound.logged("upstream_host")) == 2  # REST and gRPC
        assert "127.0.0.1:9" in outbound.logged("upstream_host")
        assert inbound.total("meshproxy_connections_total", security="mtls") >= 1
        assert outbound.total("meshproxy_connections_total", security="plaintext") == 2

        # Only the model server's answers are in its latency.
        assert inbound.total("meshproxy_requests_total") == 3
        assert outbound.total("meshproxy_requests_total") == CALLS
        for page in pages:
            for name in ("request_duration_seconds", "request_size_bytes", "response_size_bytes"):
                assert page.total(f"meshproxy_{name}_count", model="half_plus_two") == 2
                assert page.total(f"meshproxy_{name}_count") == 2
        assert inbound.total("meshproxy_refusals_total", reason="permission-denied") == 1
        assert outbound.total("meshproxy_refusals_total") == 2
