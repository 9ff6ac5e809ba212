"""`meshproxy uninject`."""

from __future__ import annotations

import click

from meshproxy.cli import _injection


@click.command("uninject", short_help="Take sidecars out of manifests of Kubernetes.")
@click.argument("path", metavar="FILE|-")
def command(path: str) -> None:
    """Take the sidecars out of the pods of FILE, or of standard input, that `meshproxy inject` has put in.

    The result is the file as it was before, byte for byte, with the changes made to it since.

    \b
    Example:
        meshproxy uninject injected.yaml > deployment.yaml
    """
    from meshproxy.injection.manifests import uninject_text
    from meshproxy.injection.yaml_edit import CannotEdit

    try:
        text, changed = uninject_text(_injection.read_manifests(path))
    except CannotEdit as error:
        raise click.ClickException(f"{path}: {error}") from None
    for where in changed:
        click.echo(f"{where}: sidecar removed", err=True)
    if not changed:
        click.echo(f"{path}: no pod in it has a sidecar of ours", err=True)
    click.echo(text.encode(), nl=False)
