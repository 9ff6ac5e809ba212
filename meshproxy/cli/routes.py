"""`meshproxy routes`: `meshproxy stat` of the mesh, by server, model and verb."""

from __future__ import annotations

import click

from meshproxy.cli import _control_planes, _mesh

BY = ("server", "model", "verb")


@click.command("routes", short_help="Show how each verb of each model does, by server.")
@_mesh.window
@_mesh.filters
@_control_planes.options
@_mesh.output
def command(window: float, addresses: tuple[str, ...], timeout: float, output: str, **filters: tuple[str, ...]) -> None:
    """Show for each server, model and verb of the mesh the share of success, calls a second and percentiles of the
    latency in the last minute, as sidecars have reported it to the control plane.

    \b
    meshproxy routes
    meshproxy routes --server '*/sa/tensorflow-serving' -t 10m

    Exit status: 0, or 1 if no control plane answers.
    """
    _mesh.show(addresses, timeout, window, BY, filters, output)
