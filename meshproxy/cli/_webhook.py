"""Options of the injector's webhook."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshproxy.cli import _injection, _options

if TYPE_CHECKING:
    from meshproxy.control.webhook import Injector


@dataclass(frozen=True, slots=True)
class WebhookChoices:
    """What was given on the command line."""

    webhook: str | None
    webhook_names: tuple[str, ...]
    webhook_configuration: str | None
    webhook_certificate: Path | None
    webhook_key: Path | None
    sidecar_image: str | None
    sidecar_control_plane: str
    sidecar_server: str
    sidecar_listen: str
    kubernetes: str

    def injector(self, control_plane_id: str, namespace: str) -> Injector | None:
        """The injector; None if there is to be none. Raises UsageError.

        Args:
            control_plane_id: the SPIFFE id of the control plane.
            namespace: where it runs.
        """
        from meshproxy.config import values
        from meshproxy.control.webhook import Injector
        from meshproxy.injection import settings

        if self.webhook is None:
            if self.webhook_configuration is not None:
                raise click.UsageError("--webhook-configuration: there is no webhook without --webhook")
            return None
        if (self.webhook_certificate is None) != (self.webhook_key is None):
            raise click.UsageError("--webhook-certificate and --webhook-key go together")
        if self.webhook_certificate is not None and self.webhook_configuration is not None:
            raise click.UsageError(
                "--webhook-configuration: whoever issues --webhook-certificate writes the caBundle: leave it out"
            )
        if self.sidecar_image is None:
            raise click.UsageError("--webhook: name the image of the sidecars with --sidecar-image")
        image = _options.read(settings.read_image, self.sidecar_image, "--sidecar-image")
        server = _options.read(values.read_name, self.sidecar_server, "--sidecar-server")
        release = _options.read(settings.read_release, self.kubernetes, "--kubernetes")
        _options.read(values.read_endpoint_address, self.sidecar_control_plane, "--sidecar-control-plane")

        def sidecars(trust_bundle: str) -> settings.Settings:
            return settings.Settings(
                image=image,
                trust_bundle=trust_bundle,
                control_plane=self.sidecar_control_plane,
                control_plane_id=control_plane_id,
                namespace=namespace,
                server=server,
                listen=self.sidecar_listen,
                kubernetes=release,
            )

        return Injector(
            listen=_options.read(values.read_listen_address, self.webhook, "--webhook"),
            names=tuple(_options.read(values.read_host_name, name, "--webhook-name") for name in self.webhook_names),
            sidecars=sidecars,
            configuration=self.webhook_configuration,
            files=(self.webhook_certificate, self.webhook_key)
            if self.webhook_certificate is not None and self.webhook_key is not None
            else None,
        )


def webhook_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command, which gets them as `webhook`, a `WebhookChoices`."""
    names = [field.name for field in fields(WebhookChoices)]

    @functools.wraps(command)
    def with_choices(**options: Any) -> Any:
        return command(webhook=WebhookChoices(**{name: options.pop(name) for name in names}), **options)

    return _OPTIONS(with_choices)


_OPTIONS = _options.together(
    click.option(
        "--webhook",
        metavar="IP:PORT",
        help="The injector's port for the API server, such as [::]:18511.  [default: none]",
    ),
    click.option(
        "--webhook-name",
        "webhook_names",
        multiple=True,
        default=["meshproxy-injector.meshproxy.svc"],
        show_default=True,
        metavar="HOST",
        help="The host name by which the API server calls it; may be repeated.",
    ),
    click.option(
        "--webhook-configuration",
        metavar="NAME",
        help="The MutatingWebhookConfiguration whose caBundle is kept up to date.  [default: none]",
    ),
    click.option(
        "--webhook-certificate",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="PATH",
        help="The webhook's certificate, if somebody else issues it, such as cert-manager; read again when it changes."
        "  [default: by the authority of the mesh]",
    ),
    click.option(
        "--webhook-key",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="PATH",
        help="The private key of that certificate.",
    ),
    click.option("--sidecar-image", metavar="IMAGE", help="The image of injected sidecars; needed with --webhook."),
    click.option(
        "--sidecar-control-plane",
        default="meshproxy-control.meshproxy.svc:18510",
        show_default=True,
        metavar="HOST:PORT",
        help="Where injected sidecars find this control plane.",
    ),
    click.option(
        "--sidecar-server",
        default="local",
        show_default=True,
        metavar="NAME",
        help="The ModelServer, among the documents, that stands for the one in the pod of an injected sidecar.",
    ),
    _injection.listen_option(
        "The address of the ports of injected sidecars: 0.0.0.0 where nodes have no IPv6 at all.", "--sidecar-listen"
    ),
    _injection.kubernetes_option("The release of the cluster. Before 1.29 injected sidecars are ordinary containers."),
)
