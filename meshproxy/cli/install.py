"""`meshproxy install`."""

from __future__ import annotations

from typing import Any

import click

from meshproxy.cli import _injection


@click.command("install", short_help="Print what the injector needs in a cluster.")
@click.option(
    "--injector",
    type=click.Choice(["webhook", "policy"]),
    required=True,
    help="Who puts sidecars into pods: the control plane's webhook, or the API server itself by a policy.",
)
@click.option(
    "--service-account", default="control", show_default=True, metavar="NAME", help="Of the control plane (webhook)."
)
@click.option(
    "--cert-manager",
    metavar="[Issuer/|ClusterIssuer/]NAME",
    help="Let this issuer of cert-manager make the webhook's certificate.  [default: the control plane makes it]",
)
@_injection.settings_options
def command(injector: str, service_account: str, cert_manager: str | None, **options: Any) -> None:
    """Print what the injector needs in a cluster, as YAML for kubectl.

    webhook: its Service and MutatingWebhookConfiguration, and the right of the control plane to keep the caBundle, for
    `meshproxy control run --webhook ... --webhook-configuration meshproxy-injector`. With --cert-manager a Certificate
    instead of that right: its Secret is to be mounted for --webhook-certificate and --webhook-key.

    policy: a MutatingAdmissionPolicy (Kubernetes 1.36 and newer), which gives every pod the same sidecar without a
    webhook. It reads no annotations of pods.

    Both: policies that refuse pods without sidecar in namespaces with the label meshproxy.dev/enforce=true.

    \b
    Example:
        meshproxy install --injector webhook --image registry.example.com/meshproxy:0.1.0 \\
            --trust-domain prod.example --trust-bundle authority.pem | kubectl apply -f -
    """
    from meshproxy.injection.policies import enforcement_policies, injection_policies
    from meshproxy.injection.webhook_configuration import certified_objects, webhook_objects
    from meshproxy.injection.yaml_edit import as_block

    settings = _injection.read_settings(**options)
    if cert_manager is not None:
        kind, slash, issuer = cert_manager.rpartition("/")
        if injector != "webhook" or not issuer or (slash and kind not in ("Issuer", "ClusterIssuer")):
            raise click.UsageError("--cert-manager: expected an issuer such as ClusterIssuer/ca, for the webhook")
        objects = certified_objects(settings.namespace, issuer, kind or "Issuer")
    elif injector == "webhook":
        objects = webhook_objects(settings.trust_bundle, settings.namespace, service_account)
    elif not settings.is_native:
        raise click.UsageError("--injector policy: takes native sidecars, and Kubernetes 1.36 or newer")
    else:
        objects = injection_policies(settings)
    objects += enforcement_policies(settings.namespace)
    click.echo("\n---\n".join(map(as_block, objects)))
