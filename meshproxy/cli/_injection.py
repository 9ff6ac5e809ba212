"""Options of the commands that put sidecars into pods."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshproxy.cli import _options

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.injection.settings import Settings


def trust_bundle_option(*, required: bool) -> Callable[[Any], Any]:
    """The file with the roots of sidecars that are told them."""
    return click.option(
        "--trust-bundle",
        required=required,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="PATH",
        help="The CA certificates of the control plane: authority.pem of its folder, or ca.crt of its Secret.",
    )


def namespace_option(text: str) -> Callable[[Any], Any]:
    """`--control-namespace`, with this help."""
    return click.option("--control-namespace", default="meshproxy", show_default=True, help=text)


def kubernetes_option(text: str) -> Callable[[Any], Any]:
    """`--kubernetes`, with this help; `injection.settings.read_release` reads it."""
    return click.option("--kubernetes", default="1.29", show_default=True, metavar="VERSION", help=text)


def listen_option(text: str, name: str = "--listen") -> Callable[[Any], Any]:
    """The address of ports that others connect to, with this help."""
    return click.option(name, type=click.Choice(["[::]", "0.0.0.0"]), default="[::]", show_default=True, help=text)


settings_options = _options.together(
    click.option("--image", required=True, help="The image of meshproxy."),
    click.option("--trust-domain", required=True, help="The trust domain of the mesh, such as prod.example."),
    click.option(
        "--control-plane",
        metavar="HOST:PORT",
        help="Where sidecars find the control plane.  [default: meshproxy-control.CONTROL-NAMESPACE.svc:18510]",
    ),
    click.option(
        "--control-plane-id",
        metavar="SPIFFE-ID",
        help="Its SPIFFE id.  [default: spiffe://TRUST-DOMAIN/ns/CONTROL-NAMESPACE/sa/control]",
    ),
    namespace_option("Where it runs: pods of this namespace get no sidecar."),
    click.option(
        "--server",
        default="local",
        show_default=True,
        help="The ModelServer, among the documents of the control plane, that stands for the one in the same pod.",
    ),
    kubernetes_option("The release of the cluster. Before 1.29 sidecars are ordinary containers."),
    listen_option("The address of all ports for others, IPv6 and IPv4: 0.0.0.0 where nodes have no IPv6 at all."),
)
"""What every sidecar has in common, beside the trust bundle; `read_settings` reads them."""


def read_settings(
    *,
    image: str,
    trust_bundle: Path,
    trust_domain: str,
    control_plane: str | None,
    control_plane_id: str | None,
    control_namespace: str,
    server: str,
    kubernetes: str,
    listen: str,
) -> Settings:
    """The settings of these options. Raises UsageError."""
    from meshproxy.injection.settings import Settings, read_release
    from meshproxy.installation.choices import account_identity, service_address

    check_settings(image, trust_domain, control_plane, control_plane_id, control_namespace, server)
    try:
        return Settings(
            image=image,
            trust_bundle=read_bundle(trust_bundle),
            control_plane=control_plane or service_address(control_namespace),
            control_plane_id=control_plane_id or account_identity(trust_domain, control_namespace),
            namespace=control_namespace,
            server=server,
            kubernetes=_options.read(read_release, kubernetes, "--kubernetes"),
            listen=listen,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def check_settings(
    image: str,
    trust_domain: str,
    control_plane: str | None,
    control_plane_id: str | None,
    control_namespace: str,
    server: str,
) -> None:
    """Each option by itself. Raises UsageError, which names the option."""
    from meshproxy.config import values
    from meshproxy.injection.settings import read_image

    _options.read(read_image, image, "--image")
    _options.read(values.read_trust_domain, trust_domain, "--trust-domain")
    if control_plane is not None:
        _options.read(values.read_endpoint_address, control_plane, "--control-plane")
    if control_plane_id is not None:
        _options.read(values.read_spiffe_id, control_plane_id, "--control-plane-id")
    _options.read(values.read_name, control_namespace, "--control-namespace")
    _options.read(values.read_name, server, "--server")


def read_bundle(path: Path) -> str:
    """The file of `--trust-bundle`. Raises UsageError, which names it."""
    from meshproxy.config.certificates import read_certificates

    try:
        text = path.read_text()
        read_certificates(text)
    except (ValueError, OSError) as error:
        raise click.UsageError(f"--trust-bundle {path}: {error}") from None
    return text


def read_manifests(path: str) -> str:
    """The text of a file, or of standard input for `-`. Raises ClickException."""
    try:
        return (sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path}: cannot be read: {error}") from None
