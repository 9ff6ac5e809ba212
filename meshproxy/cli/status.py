"""`meshproxy status`: one screen about one running sidecar."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from meshproxy.cli import _options
from meshproxy.cli._local_page import NoAnswer, get, read_address
from meshproxy.cli.main import FOUND


@click.command(name="status", short_help="Show the state of a running sidecar.")
@_options.admin
@click.option("--timeout", default=5.0, show_default=True, help="Seconds to wait for the answer.")
@_options.output
def command(address: str, timeout: float, output: str) -> None:
    """Show the state of a running sidecar: documents and their last reload, identity, token issuers, ports, model
    servers with their endpoints, and the last refusals. With several workers it is the state of all of them.

    The admin port answers on loopback only. In a pod, run this in the container of the sidecar:

    \b
    kubectl exec POD -c meshproxy -- meshproxy status

    Exit status: 0 if nothing needs attention, 3 if something does (it comes first), 1 if no sidecar answers.
    """
    status = _fetch(read_address(address, "--admin", _options.DEFAULT_ADMIN), timeout)
    if output == "json":
        click.echo(json.dumps(status, indent=2))
    else:
        from meshproxy.cli._status_text import show

        show(status, address)
    if status["attention"]:
        sys.exit(FOUND)


def _fetch(address: tuple[str, int], timeout: float) -> dict[str, Any]:
    """The status. Raises ClickException if there is none."""
    where = "{}:{}".format(*address)
    try:
        code, body = get(address, "/status", timeout)
    except NoAnswer as error:
        raise click.ClickException(
            f"no sidecar answers at {where}: {error}. Is it running, with this spec.admin.listen? (--admin HOST:PORT)"
        ) from None
    try:
        found = json.loads(body) if code == 200 else None
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("kind") != "SidecarStatus":
        raise click.ClickException(
            f"{where} answers with status {code} and is not the admin port of a sidecar of this version"
        )
    return found
