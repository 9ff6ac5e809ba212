"""Something that answers as a sidecar or a control plane does, or does not; and what pods with sidecars need."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.injection.pods import SETTINGS

Serve = Callable[..., str]


@contextmanager
def listening() -> Iterator[Callable[[type[BaseHTTPRequestHandler]], str]]:
    """Starts a server for each kind of handler that it is called with, and returns its address; ends them all."""
    servers: list[ThreadingHTTPServer] = []

    def listen(handler: type[BaseHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"127.0.0.1:{server.server_address[1]}"

    yield listen
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Answers GET /status, and GET /readyz with `ready`; returns its address."""
    released = threading.Event()

    def start(answer: object, code: int = 200, *, hangs: bool = False, ready: int = 200) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if hangs:
                    released.wait(10)
                    return
                body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                self.send_response({"/status": code, "/readyz": ready}.get(self.path, 404))
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        return listen(Handler)

    with listening() as listen:
        yield start
        released.set()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A trust bundle."""
    path = tmp_path / "authority.pem"
    path.write_text(SETTINGS.trust_bundle)
    return path


def needed(bundle: Path) -> list[str]:
    """The options that have no default, of commands that put sidecars into pods."""
    return ["--image", "meshproxy:1", "--trust-domain", "prod.example", "--trust-bundle", str(bundle)]


Lines = Callable[..., str]


@pytest.fixture
def live() -> Iterator[Lines]:
    """Serves lines at a path, as /tap and /stat of a sidecar do; returns its address."""
    released = threading.Event()

    def start(lines: list[object], *, code: int = 200, is_open: bool = False, asked: list[str] | None = None) -> str:
        """`is_open`: nothing follows the lines, and the response does not end."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if asked is not None:
                    asked.append(self.path)
                self.send_response(code)
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for line in lines:
                    data = (line if isinstance(line, str) else json.dumps(line)).encode() + b"\n"
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
                if is_open:
                    released.wait(10)
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        return listen(Handler)

    with listening() as listen:
        yield start
        released.set()


def call(**fields: object) -> dict[str, Any]:
    """A line of the access log."""
    return {
        "start_time": "2026-01-31T12:00:00.123456Z",
        "method": "POST",
        "response_code": 200,
        "response_flags": "-",
        "refusal": None,
        "grpc_status": None,
        "bytes_received": 60,
        "bytes_sent": 3_000,
        "duration": 1.234,
        "upstream_host": "127.0.0.1:8501",
        "route_name": None,
        "attempts": 1,
        "direction": "inbound",
        "downstream_remote_address": "10.0.0.1:40000",
        "peer_spiffe_id": "spiffe://dev.example/ns/pricing/sa/quoter",
        "jwt_issuer": None,
        "jwt_sub": None,
        "model": "resnet",
        "model_version": None,
        "verb": "predict",
        "forwarded_model": None,
        "forwarded_version": None,
        "trace_id": None,
        **fields,
    }


def counts(seconds: float = 1.0, model: str = "resnet", **fields: object) -> dict[str, Any]:
    """A line of /stat: one group of ten calls of a millisecond."""
    group = {"names": {"direction": "inbound", "model": model, "version": "latest"}, "calls": 10, "buckets": {"32": 10}}
    return {"seconds": seconds, "groups": [{**group, **fields}]}


ServePages = Callable[[dict[str, bytes]], str]


@pytest.fixture
def serve_pages() -> Iterator[ServePages]:
    """Answers GET of these paths, without their queries; returns its address."""

    def start(pages: dict[str, bytes]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = pages.get(self.path.partition("?")[0])
                self.send_response(200 if body is not None else 404)
                self.send_header("content-length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        return listen(Handler)

    with listening() as listen:
        yield start
