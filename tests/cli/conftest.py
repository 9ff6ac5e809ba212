"""Something that answers as a sidecar or a control plane does, or does not; and what pods with sidecars need."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.injection.pods import SETTINGS

Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Answers GET /status, and GET /readyz with `ready`; returns its address."""
    servers: list[ThreadingHTTPServer] = []
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

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"127.0.0.1:{server.server_address[1]}"

    yield start
    released.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A trust bundle."""
    path = tmp_path / "authority.pem"
    path.write_text(SETTINGS.trust_bundle)
    return path


def needed(bundle: Path) -> list[str]:
    """The options that have no default, of commands that put sidecars into pods."""
    return ["--image", "meshproxy:1", "--trust-domain", "prod.example", "--trust-bundle", str(bundle)]
