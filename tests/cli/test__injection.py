from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from meshproxy.cli import _injection
from tests.cli.conftest import needed


@click.command()
@_injection.trust_bundle_option(required=True)
@_injection.settings_options
def command(**options: Any) -> None:
    settings = _injection.read_settings(**options)
    click.echo(f"{settings.image} {settings.control_plane} {settings.control_plane_id}", nl=False)
    click.echo(f" {settings.kubernetes} {settings.is_native}")


def run(bundle: Path, *arguments: str) -> str:
    return CliRunner().invoke(command, [*needed(bundle), *arguments]).output


def test_defaults(bundle: Path) -> None:
    where = "meshproxy-control.meshproxy.svc:18510 spiffe://prod.example/ns/meshproxy/sa/control"
    assert run(bundle) == f"meshproxy:1 {where} (1, 29) True\n"
    assert where.replace("meshproxy.svc", "mesh.svc").replace("ns/meshproxy", "ns/mesh") in run(
        bundle, "--control-namespace", "mesh"
    )


def test_choices(bundle: Path) -> None:
    said = run(bundle, "--control-plane-id", "spiffe://a.example/control", "--kubernetes", "v1.28.3")
    assert said.endswith(" spiffe://a.example/control (1, 28) False\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image", "a b"), "--image: expected an image"),
        (("--kubernetes", "new"), "expected a release of Kubernetes"),
        (("--control-plane", "here"), 'expected "HOST:PORT"'),
        (("--trust-domain", "A"), "--trust-domain: expected a trust domain"),
        (("--listen", "127.0.0.1"), "is not one of"),
    ],
)
def test_what_is_wrong_is_named(bundle: Path, arguments: tuple[str, str], message: str) -> None:
    assert message in run(bundle, *arguments)


def test_a_bundle_without_certificates(bundle: Path) -> None:
    bundle.write_text("none")
    assert "expected certificates in PEM" in run(bundle)
    bundle.write_bytes(b"\xff")
    assert "Error: " in run(bundle)


def test_manifests_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff")
    for path in (tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path):
        with pytest.raises(click.ClickException, match="cannot be read"):
            _injection.read_manifests(str(path))
