"""Options that say what a mesh is to have in a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshproxy.cli import _injection, _options

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.installation.choices import CertManager


def injector_option(text: str) -> Callable[[Any], Any]:
    """`--injector`, with this help."""
    return click.option(
        "--injector", type=click.Choice(["webhook", "policy", "none"]), default="webhook", show_default=True, help=text
    )


def cert_manager_option(text: str) -> Callable[[Any], Any]:
    """`--cert-manager`, with this help; `read_issuer` reads it."""
    return click.option(
        "--cert-manager",
        metavar="[Issuer/|ClusterIssuer/]NAME",
        help=f"{text}  [default: the control plane does]",
    )


options = _options.together(
    injector_option("Who puts sidecars into pods: the control plane's webhook, or the API server itself by a policy."),
    click.option(
        "--only",
        multiple=True,
        type=click.Choice(["crds", "control-plane", "injector", "documents"]),
        help="This part; may be repeated.  [default: all but the documents]",
    ),
    click.option(
        "--service-account", default="control", show_default=True, metavar="NAME", help="Of the control plane."
    ),
    click.option(
        "--login-secret",
        metavar="NAME",
        help="The Secret with the login file of the page, login.yaml, and what that names beneath /etc/meshproxy/login."
        "  [default: no login]",
    ),
    click.option(
        "--memory-limit",
        default="256Mi",
        show_default=True,
        metavar="AMOUNT",
        help="Of each control plane. The default is for some 3,000 sidecars, 700Mi for 10,000.",
    ),
    cert_manager_option("Let this issuer of cert-manager make the webhook's certificate."),
    _injection.trust_bundle_option(required=False),
    _injection.settings_options,
)
"""The choices; `objects` reads them."""


def objects(
    *,
    injector: str,
    only: tuple[str, ...],
    service_account: str,
    login_secret: str | None,
    memory_limit: str,
    cert_manager: str | None,
    image: str,
    trust_domain: str,
    trust_bundle: Path | None,
    control_plane: str | None,
    control_plane_id: str | None,
    control_namespace: str,
    server: str,
    kubernetes: str,
    listen: str,
) -> list[dict[str, Any]]:
    """The objects of these options. Raises UsageError."""
    from meshproxy.config import values
    from meshproxy.injection.settings import read_memory, read_release
    from meshproxy.installation.choices import Choices, Injection
    from meshproxy.installation.parts import INSTALLATION, Part, installation

    if trust_bundle is not None and injector != "policy":
        raise click.UsageError("--trust-bundle: only a policy takes it; the control plane gives it to sidecars itself")
    if trust_bundle is None and injector == "policy":
        raise click.UsageError(
            "--injector policy holds the trust bundle of the sidecars that it adds: name the file with --trust-bundle "
            "(ca.crt of the Secret meshproxy-authority, after an installation with --injector none)"
        )
    _injection.check_settings(image, trust_domain, control_plane, control_plane_id, control_namespace, server)
    _options.read(values.read_name, service_account, "--service-account")
    if login_secret is not None:
        _options.read(values.read_name, login_secret, "--login-secret")
    try:
        choices = Choices(
            image=image,
            trust_domain=trust_domain,
            injection=Injection(injector),
            trust_bundle=_injection.read_bundle(trust_bundle) if trust_bundle is not None else None,
            cert_manager=read_issuer(cert_manager),
            namespace=control_namespace,
            service_account=service_account,
            login_secret=login_secret,
            memory_limit=_options.read(read_memory, memory_limit, "--memory-limit"),
            control_plane=control_plane,
            control_plane_id=control_plane_id,
            server=server,
            listen=listen,
            kubernetes=_options.read(read_release, kubernetes, "--kubernetes"),
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    parts = [Part(each) for each in only] or INSTALLATION
    return installation(choices, parts)


def read_issuer(text: str | None) -> CertManager | None:
    """The value of `--cert-manager`. Raises UsageError."""
    from meshproxy.installation.choices import CertManager

    if text is None:
        return None
    kind, slash, issuer = text.rpartition("/")
    if not issuer or (slash and kind not in ("Issuer", "ClusterIssuer")):
        raise click.UsageError("--cert-manager: expected an issuer such as ClusterIssuer/ca")
    return CertManager(kind or "Issuer", issuer)
