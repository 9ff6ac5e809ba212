"""`meshproxy inject`."""

from __future__ import annotations

import sys
from typing import Any

import click

from meshproxy.cli import _injection, _options
from meshproxy.cli.main import FOUND


@click.command("inject", short_help="Put sidecars into manifests of Kubernetes.")
@click.argument("path", metavar="FILE|-")
@click.option(
    "--namespace", default="default", show_default=True, metavar="NAME", help="Of objects that do not name theirs."
)
@_injection.trust_bundle_option(required=True)
@_injection.settings_options
def command(path: str, namespace: str, **options: Any) -> None:
    """Put sidecars into the pods of FILE, or of standard input.

    Pods, Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs and lists of them get what the injector of
    the control plane would give their pods. Everything else is printed byte for byte as it is, comments included.
    `meshproxy uninject` takes the sidecars out again.

    \b
    Example:
        meshproxy inject deployment.yaml --image registry.example.com/meshproxy:0.1.0 \\
            --trust-domain prod.example --trust-bundle authority.pem | kubectl apply -f -

    Exit status: 3 if a pod cannot have a sidecar, 1 if FILE cannot be read or has something else in it than objects;
    nothing is printed then.
    """
    from meshproxy.config import values
    from meshproxy.injection.inject import Injected, Refused, Skipped
    from meshproxy.injection.manifests import inject_text
    from meshproxy.injection.yaml_edit import CannotEdit

    _options.read(values.read_name, namespace, "--namespace")
    settings = _injection.read_settings(**options)
    try:
        text, outcomes = inject_text(_injection.read_manifests(path), namespace, settings)
    except CannotEdit as error:
        raise click.ClickException(f"{path}: {error}") from None
    is_refused = False
    for outcome in outcomes:
        match outcome.result:
            case Injected(warnings=warnings):
                click.echo(f"{outcome.where}: sidecar added", err=True)
                for warning in warnings:
                    click.echo(f"{outcome.where}: warning: {warning}", err=True)
            case Skipped(reason=reason):
                click.echo(f"{outcome.where}: left as it is: {reason}", err=True)
            case Refused(problems=problems):
                is_refused = True
                for problem in problems:
                    click.echo(f"{outcome.where}: {problem}", err=True)
    if not outcomes:
        click.echo(f"{path}: there are no pods in it", err=True)
    if is_refused:
        sys.exit(FOUND)
    click.echo(text.encode(), nl=False)
