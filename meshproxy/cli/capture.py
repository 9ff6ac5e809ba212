"""`meshproxy capture`."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, TypeAlias

import click

from meshproxy.cli import _options
from meshproxy.injection.capture import Capture, CaptureError, rules
from meshproxy.injection.settings import INBOUND, OUTBOUND, USER

Network: TypeAlias = IPv4Network | IPv6Network
SECONDS = 10.0
"""For `nft`."""


def _ports(ctx: click.Context, param: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of ports such as 8500,8501") from None


def _networks(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> tuple[Network, ...]:
    try:
        return tuple(map(ip_network, texts))
    except ValueError as error:
        raise click.BadParameter(f"{error}; write an address block such as 10.0.0.0/8") from None


_capture_options = _options.together(
    click.option(
        "--inbound",
        callback=_ports,
        default="",
        metavar="PORTS",
        help="Ports of the model server, separated by commas.  [default: none]",
    ),
    click.option(
        "--outbound",
        callback=_ports,
        default="",
        metavar="PORTS",
        help="Ports that the application dials elsewhere.  [default: none]",
    ),
    click.option("--to-inbound", default=INBOUND, show_default=True, help="The inbound port of the sidecar."),
    click.option("--to-outbound", default=OUTBOUND, show_default=True, help="The outbound port of the sidecar."),
    click.option(
        "--exclude",
        "excluded",
        callback=_networks,
        multiple=True,
        metavar="CIDR",
        help="Destinations that are left alone; may be repeated.  [default: none]",
    ),
    click.option("--user", default=USER, show_default=True, help="The user id of the sidecar."),
)


def _rules(options: dict[str, Any]) -> str:
    """The rules of these options. Raises UsageError."""
    try:
        return rules(Capture(**options))
    except CaptureError as error:
        raise click.UsageError(str(error)) from None


@click.group("capture")
def command() -> None:
    """Redirect a pod's connections to its sidecar, by nftables.

    Without it, ports are explicit: callers know the sidecar's inbound port, and the application its outbound port.
    """


@command.command("rules", short_help="Print the rules.")
@_capture_options
def show(**options: Any) -> None:
    """Print the rules, for `nft -f -`.

    \b
    Example:
        meshproxy capture rules --inbound 8500,8501 --outbound 8500,8501
    """
    click.echo(_rules(options), nl=False)


@command.command("apply", short_help="Put the rules into force.")
@_capture_options
def apply(**options: Any) -> None:
    """Put the rules into force in this network namespace, instead of those of an earlier run. Needs CAP_NET_ADMIN and
    `nft`, as an init container has that runs before the others; the containers after it need neither.

    The sidecar's document says `outbound: {transparent: true}`, and its user is nobody else's in the pod. For IPv6 it
    listens on `[::]`.
    """
    import subprocess

    program = _rules(options)
    try:
        ended = subprocess.run(["nft", "-f", "-"], input=program, capture_output=True, text=True, timeout=SECONDS)  # noqa: S607
    except FileNotFoundError:
        raise click.ClickException("nft is missing: install nftables, or use the image of meshproxy") from None
    except subprocess.TimeoutExpired:
        raise click.ClickException(f"nft did not end within {SECONDS:g} s") from None
    if ended.returncode != 0:
        hint = (
            "give the container CAP_NET_ADMIN" if "not permitted" in ended.stderr else "the kernel must have nf_tables"
        )
        raise click.ClickException(f"nft refused the rules: {ended.stderr.strip() or 'no reason given'}; {hint}")


if __name__ == "__main__":
    command()
