"""`meshproxy dashboard`: where the page of the mesh is."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import webbrowser

import click

from meshproxy.cli import _control_planes
from meshproxy.cli._local_page import NoAnswer, get, read_address
from meshproxy.cli.main import INTERRUPTED

PATIENCE = 15.0
"""Seconds until a forwarded port must answer."""


@click.command("dashboard", short_help="Open the page of the mesh.")
@click.option(
    "--control",
    "address",
    default=_control_planes.DEFAULT,
    show_default=True,
    metavar="HOST:PORT",
    help="The web port of a control plane, on this host or to be forwarded here.",
)
@click.option(
    "-n",
    "--namespace",
    default="meshproxy",
    show_default=True,
    metavar="NAME",
    help="Where the control plane runs, if its port has to be forwarded.",
)
@click.option("--deployment", default="meshproxy-control", show_default=True, metavar="NAME", help="Its Deployment.")
@click.option("--browser/--no-browser", default=None, help="Open it in a browser.  [default: on a terminal]")
def command(address: str, namespace: str, deployment: str, browser: bool | None) -> None:
    """Show the address of the page of the mesh, and open it in a browser. If nothing answers there, the port of the
    control plane in the cluster is forwarded with kubectl until Ctrl-C.

    Exit status: 0, 1 if there is no control plane, 130 after Ctrl-C.
    """
    where = read_address(address, "--control", _control_planes.DEFAULT)
    forwarding = None if _answers(where) else _forward(where[1], namespace, deployment)
    try:
        if forwarding is not None:
            _wait(where, forwarding, f"kubectl --namespace {namespace} get deploy/{deployment}")
        url = "http://{}:{}/".format(*where)
        click.echo(url)
        if browser if browser is not None else sys.stdout.isatty():
            webbrowser.open(url)
        if forwarding is not None:
            click.echo("forwarding until Ctrl-C", err=True)
            sys.exit(forwarding.wait())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        if forwarding is not None:
            forwarding.terminate()


def _answers(where: tuple[str, int]) -> bool:
    try:
        return get(where, "/livez", 2.0)[0] == 200
    except NoAnswer:
        return False


def _forward(port: int, namespace: str, deployment: str) -> subprocess.Popen[bytes]:
    """Raises ClickException."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise click.ClickException(
            f"nothing answers at port {port} of this host, and there is no kubectl to forward it: start the control "
            "plane, or name its web port (--control)"
        )
    command = [kubectl, "port-forward", "--namespace", namespace, f"deploy/{deployment}", f"{port}:18512"]
    click.echo(f"nothing answers at port {port} of this host: {' '.join(['kubectl', *command[1:]])}", err=True)
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 (a fixed program, without a shell)


def _wait(where: tuple[str, int], forwarding: subprocess.Popen[bytes], look: str) -> None:
    """Until the forwarded port answers. Raises ClickException, which has the command that shows the control plane."""
    until = time.monotonic() + PATIENCE
    while not _answers(where):
        if forwarding.poll() is not None:
            raise click.ClickException(
                "kubectl could not forward the port; why is above, in its words. For a control plane in a cluster see "
                f"whether {look} shows it; one on this host is named by its web port (--control)"
            )
        if time.monotonic() > until:
            raise click.ClickException(f"the forwarded port does not answer within {PATIENCE:g} s")
        time.sleep(0.2)
