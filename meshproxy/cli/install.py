"""`meshproxy install`."""

from __future__ import annotations

from typing import Any

import click

from meshproxy.cli import _installation


@click.command("install", short_help="Print what a mesh needs in a cluster.")
@_installation.options
def command(**options: Any) -> None:
    """Print what a mesh needs in a cluster, as YAML for kubectl.

    The kinds of its documents; the control plane, in a namespace of its own, with the rights that it needs; what puts
    sidecars into the pods of namespaces with the label meshproxy.dev/inject=enabled; and policies that refuse pods
    without sidecar in namespaces with the label meshproxy.dev/enforce=true.

    Then come the documents, your own or the first ones (--only documents): kubectl takes them only once their kinds are
    there.

    \b
    webhook  the API server asks the control plane about new pods. With --cert-manager a Certificate is printed, too.
    policy   a MutatingAdmissionPolicy (Kubernetes 1.36 and newer) adds the same sidecar. It reads no annotations of
             pods, and holds the trust bundle (--trust-bundle): install with --injector none first, and then read it
             from the Secret meshproxy-authority, which the control plane makes.

    \b
    Example:
        meshproxy install --image registry.example.com/meshproxy:0.1.0 --trust-domain prod.example | kubectl apply -f -
    """
    from meshproxy.injection.yaml_edit import as_block

    click.echo("\n---\n".join(map(as_block, _installation.objects(**options))))
