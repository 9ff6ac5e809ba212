"""`meshproxy status`: one screen about one running sidecar."""

from __future__ import annotations

import json
import sys
from http.client import HTTPConnection, HTTPException
from typing import Any

import click

from meshproxy.cli import _options
from meshproxy.cli.main import FOUND

DEFAULT = "127.0.0.1:18502"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command(name="status", short_help="Show the state of a running sidecar.")
@click.option(
    "--admin",
    "address",
    default=DEFAULT,
    show_default=True,
    metavar="HOST:PORT",
    help="The sidecar's admin port on this host (spec.admin.listen).",
)
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
    host, port = _read_address(address)
    status = _fetch(host, port, timeout)
    if output == "json":
        click.echo(json.dumps(status, indent=2))
    else:
        from meshproxy.cli._status_text import show

        show(status, address)
    if status["attention"]:
        sys.exit(FOUND)


def _read_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise click.BadParameter(f"expected HOST:PORT, such as {DEFAULT}", param_hint="--admin")
    if host not in LOOPBACK:
        raise click.BadParameter(
            f"the admin port answers on loopback only: run this on the sidecar's host, with 127.0.0.1:{port}",
            param_hint="--admin",
        )
    return host, int(port)


def _fetch(host: str, port: int, timeout: float) -> dict[str, Any]:
    """The status. Raises ClickException if there is none."""
    where = f"{host}:{port}"
    connection = HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", "/status")
        response = connection.getresponse()
        body = response.read()
    except TimeoutError:
        raise click.ClickException(
            f"{where} did not answer within {timeout:g} s: the sidecar hangs, or another process listens there"
        ) from None
    except (OSError, HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise click.ClickException(
            f"no sidecar answers at {where}: {why}. Is it running, with this spec.admin.listen? (--admin HOST:PORT)"
        ) from None
    finally:
        connection.close()
    try:
        found = json.loads(body) if response.status == 200 else None
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("kind") != "SidecarStatus":
        raise click.ClickException(
            f"{where} answers with status {response.status} and is not the admin port of a sidecar of this version"
        )
    return found
