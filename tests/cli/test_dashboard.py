"""`meshproxy dashboard`: the address, and a forwarded port if there is none."""

from __future__ import annotations

import stat
import sys
import webbrowser
from pathlib import Path

import pytest

from meshproxy.cli import dashboard
from meshproxy.devtools.child import free_port
from tests.cli.conftest import ServePages
from tests.cli.test__mesh import run


def test_a_control_plane_on_this_host(serve_pages: ServePages, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    address = serve_pages({"/livez": b"ok\n"})
    result = run("dashboard", "--control", address)
    assert (result.exit_code, result.stdout, opened) == (0, f"http://{address}/\n", [])
    run("dashboard", "--control", address, "--browser")
    assert opened == [f"http://{address}/"]


def test_without_kubectl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    result = run("dashboard", "--control", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "there is no kubectl" in result.stderr


def kubectl(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A kubectl that is this script."""
    path = folder / "kubectl"
    path.write_text(f"#!{sys.executable}\n{script}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


def test_kubectl_forwards_the_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    answer = "HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\nconnection: close\\r\\n\\r\\n"
    kubectl(
        tmp_path,
        monkeypatch,
        "import socket, sys\n"
        f"assert sys.argv[1:] == ['port-forward', '--namespace', 'mesh', 'deploy/c', '{port}:18512']\n"
        f"s = socket.create_server(('127.0.0.1', {port})); c, _ = s.accept(); c.recv(4096); c.sendall(b'{answer}')\n",
    )
    result = run("dashboard", "--control", f"127.0.0.1:{port}", "-n", "mesh", "--deployment", "c", "--no-browser")
    assert (result.exit_code, result.stdout) == (0, f"http://127.0.0.1:{port}/\n")


def test_kubectl_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl(tmp_path, monkeypatch, "raise SystemExit(1)")
    result = run("dashboard", "--control", f"127.0.0.1:{free_port()}")
    assert (result.exit_code, "could not forward" in result.stderr) == (1, True)
    assert "see whether kubectl --namespace meshproxy get deploy/meshproxy-control shows it" in result.stderr
    assert dashboard.PATIENCE > 0
