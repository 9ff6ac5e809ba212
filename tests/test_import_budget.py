"""What the data plane has in its memory, and what it has not: each library of the tools is megabytes for every pod."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.request import Request, urlopen

import pytest
import yaml

from meshproxy.control.attestation import make_token
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.issuer import DevelopmentIssuer
from meshproxy.devtools.local_mesh import TRUST_DOMAIN, document, environment
from tests.sidecar.test_control_documents import ID, World

TOOLS = {
    "aiohttp", "click", "google", "grpc", "httpx2", "jinja2", "jwt", "lightkube", "opentelemetry", "requests", "rich",
    "urllib3", "yaml",
}  # fmt: skip
"""Never."""
TOKENS = {"cryptography"}
"""Only where tokens are verified."""
RESOLVER = {"dns"}
"""Only where endpoints are looked up by name."""
LINK = {
    "meshproxy.control_api", "meshproxy.sidecar.control_channel", "meshproxy.sidecar.control_documents",
    "meshproxy.sidecar.control_link", "meshproxy.sidecar.control_reports", "meshproxy.sidecar.enrollment",
    "meshproxy.sidecar.new_key", "meshproxy.sidecar.report_queue", "meshproxy.telemetry.call_reports",
}  # fmt: skip
"""Only where there is a control plane: 0.6 MB (`tests/figures/test_memory.py` has the whole)."""
EXPORT = {
    "meshproxy.sidecar.span_export", "meshproxy.sidecar.span_exporter", "meshproxy.telemetry.otlp",
    "meshproxy.telemetry.otlp_http", "meshproxy.telemetry.otlp_settings", "meshproxy.telemetry.span_record",
    "meshproxy.telemetry.spans", "meshproxy.telemetry.sampling",
}  # fmt: skip
"""Only where spans are exported: 0.4 MB."""

HOP = {
    "meshproxy.inference.tfserving_metrics", "meshproxy.sidecar.hop_watch", "meshproxy.sidecar.server_page",
    "meshproxy.sidecar.server_relay", "meshproxy.telemetry.change_detector", "meshproxy.telemetry.hop_lag",
    "meshproxy.sidecar.worker_calls", "meshproxy.telemetry.relayed_page",
}  # fmt: skip
"""Only where the model server's metrics page is read."""

LIVE = {
    "meshproxy.sidecar.live_pages", "meshproxy.telemetry.call_facts", "meshproxy.telemetry.call_filter",
    "meshproxy.telemetry.call_stats", "meshproxy.telemetry.quantiles", "meshproxy.telemetry.tap",
}  # fmt: skip
"""Only where somebody looks (`meshproxy tap`, `stat`, `top`)."""

PROGRAM = """
import json, sys
from meshproxy.sidecar.__main__ import main
status = main(sys.argv[1:])
print(json.dumps(sorted(sys.modules)))
sys.exit(status)
"""


def loaded(program: str) -> set[str]:
    """Top-level modules after a program in a Python of its own."""
    program += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def top(names: set[str]) -> set[str]:
    """The top-level modules of these."""
    return {name.partition(".")[0] for name in names}


def test_the_sidecars_modules_load_none_of_the_tools() -> None:
    modules = loaded("import meshproxy.sidecar.__main__, meshproxy.sidecar.start")
    assert "uvloop" in modules
    assert modules & (TOOLS | TOKENS | RESOLVER) == set()


def test_neither_does_the_command_that_a_pod_runs(tmp_path: Path) -> None:
    program = f"""
import sys
from meshproxy.__main__ import main
sys.argv = ["meshproxy", "sidecar", "--config", {str(tmp_path)!r}]
try: main()
except SystemExit: pass"""
    modules = loaded(program)
    assert "uvloop" in modules
    assert modules & (TOOLS | TOKENS | RESOLVER) == set()


def test_neither_do_the_parts_that_are_loaded_late() -> None:
    """By whoever first calls a method: with traffic on its way is not the time to find out."""
    packages = "codec identity inference policy proxy routing sidecar telemetry transport upstream"
    program = f"""
import importlib, pathlib, pkgutil, meshproxy
for package in {packages.split()!r}:
    found = importlib.import_module("meshproxy." + package)
    for module in pkgutil.walk_packages(found.__path__, found.__name__ + "."):
        importlib.import_module(module.name)
"""
    assert loaded(program) & (TOOLS | TOKENS) == set()


def test_a_child_of_a_sidecar_loads_no_event_loop() -> None:
    """It is 15 % of what a child that reads documents costs (docs/decisions/0006-documents-read-in-a-child.md)."""
    modules = loaded("import meshproxy.config.child, meshproxy.config.load, meshproxy.sidecar.new_key")
    assert modules & {"asyncio", "ssl", "socket"} == set()


@contextmanager
def upstream() -> Iterator[str]:
    """A model server in a process of its own, which answers everything."""
    program = (
        "import http.server\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.send_header('content-length', '2'); self.end_headers()\n"
        "        self.wfile.write(b'{}')\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), Handler)\n"
        "print(server.server_port, flush=True)\n"
        "server.serve_forever()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def get(url: str, context: ssl.SSLContext | None = None, token: str | None = None) -> int:
    request = Request(url, headers={"authorization": f"Bearer {token}"} if token else {})
    with urlopen(request, context=context, timeout=20) as response:
        response.read()
        return int(response.status)


def logged(lines: IO[str], event: str) -> dict[str, Any]:
    """The first line of a log with this event. What else is logged before it, such as a health check that failed while
    the machine was busy, does not matter."""
    others = []
    for line in lines:
        found: dict[str, Any] = json.loads(line)
        if found["event"] == event:
            return found
        others.append(line)
    raise AssertionError(f"the log ended without {event!r}:\n{''.join(others)}")


@pytest.mark.parametrize(
    ("mtls", "has_issuer", "looks_up"),
    [("disabled", False, False), ("strict", False, False), ("disabled", True, False), ("disabled", False, True)],
    ids=["plain", "mTLS", "tokens", "names"],
)
def test_a_sidecar_that_has_served_has_loaded_none_of_them(
    tmp_path: Path, mtls: Any, has_issuer: bool, looks_up: bool
) -> None:
    ca = DevelopmentCA.create(TRUST_DOMAIN)
    ca.write(tmp_path)
    ca.issue(f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/server", dns=["localhost"]).write(tmp_path, "server")
    issuer = DevelopmentIssuer(algorithm="ES256")
    (tmp_path / "jwks.json").write_text(json.dumps(issuer.jwks()))
    believed = {"name": "corp", "issuer": issuer.issuer, "audiences": ["models"], "keys": {"file": "jwks.json"}}
    context = None
    if mtls != "disabled":
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        context.load_cert_chain(*ca.issue(f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/client").write(tmp_path, "client"))
    with upstream() as address:
        mesh = {"issuers": [believed]} if has_issuer else {}
        own = {"accessLog": "./access.log", "outbound": {"listen": "127.0.0.1:0", "server": "local"}}
        documents = [*environment(address, mtls=mtls, mesh=mesh, sidecar=own), *everything_for_routes(looks_up)]
        # Checked often, and never taken out where the machine is busy.
        documents[1]["spec"]["health"] = {"check": "http", "interval": "50ms", "timeout": "30s", "unhealthyAfter": 1000}
        path = tmp_path / "documents.yaml"
        path.write_text(yaml.safe_dump_all(documents))
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as sidecar:
            try:
                assert sidecar.stdout is not None
                assert sidecar.stderr is not None
                listening = logged(sidecar.stderr, "listening")
                _, _, port = listening["inbound"].rpartition(":")
                scheme = "https" if context else "http"
                token = issuer.token() if has_issuer else None
                assert get(f"{scheme}://localhost:{port}/v1/models/m", context, token) == 200
                assert get(f"http://{listening['outbound']}/v1/models/m") == 200
                assert get(f"http://{listening['admin']}/metrics") == 200
                sidecar.send_signal(signal.SIGHUP)
                logged(sidecar.stderr, "configuration applied")
                sidecar.send_signal(signal.SIGTERM)
                names = set(json.loads(sidecar.stdout.read()))
                sidecar.stderr.read()
            except BaseException:
                sidecar.kill()  # or leaving the block would wait for it
                raise
        assert sidecar.returncode == 0
    modules = top(names)
    assert names & (LINK | EXPORT | HOP | LIVE) == set()
    assert modules & TOOLS == set()
    assert modules & TOKENS == (TOKENS if has_issuer else set())
    assert modules & RESOLVER == (RESOLVER if looks_up else set())


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_control_plane_costs_its_client_and_nothing_else(tmp_path: Path) -> None:
    """The key is made in another process: `cryptography` does not stay."""
    world = World(tmp_path)
    assert world.process.documents is not None
    await world.process.documents.first()
    (tmp_path / "token").write_text(make_token(world.process.store, ID, time.time(), 60.0))
    own = yaml.safe_load(world.own.read_text())
    own["spec"]["controlPlane"]["joinToken"] = str(tmp_path / "token")
    own["spec"]["admin"] = {"listen": "127.0.0.1:0"}
    world.own.write_text(yaml.safe_dump(own))
    pipe = asyncio.subprocess.PIPE
    sidecar = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, str(world.own)), stdout=pipe, stderr=pipe
    )
    try:
        assert sidecar.stderr is not None
        async with asyncio.timeout(60):
            while json.loads(await sidecar.stderr.readline())["event"] != "listening":
                continue
        await world.settled(**{"in-sync": 1})
        sidecar.send_signal(signal.SIGTERM)
        output, _ = await sidecar.communicate()
    finally:
        if sidecar.returncode is None:
            sidecar.kill()
            await sidecar.communicate()
        world.process.listener.stop_accepting()
        await world.process.server.close()
        await world.process.listener.close()
    names = set(json.loads(output))
    assert names >= LINK
    assert [name for name in names if name.startswith("meshproxy.control.")] == []
    assert top(names) & (TOOLS | TOKENS | RESOLVER) == set()


def everything_for_routes(looks_up: bool) -> list[dict[str, Any]]:
    """A route that asks for all that there is, for the model `m`; and a server that is looked up, at once."""
    spec = {
        "models": ["m"],
        "split": [{"weight": 9, "version": 1}, {"weight": 1, "version": 2}],
        "mirror": {"version": 3, "compare": {}},
        "retries": {"hedgeAfter": "10s"},
        "concurrency": {},
        "rateLimits": [{"requests": 1000, "examples": 1000}],
        "fault": {"delay": {"percent": 0, "duration": "1ms"}},
    }
    named = document("ModelServer", {"dns": {"name": "127.0.0.1", "rest": 1}}, "named")
    return [document("ModelRoute", spec), *([named] if looks_up else [])]
