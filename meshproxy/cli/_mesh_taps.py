"""`tap` with `--control`: the calls of chosen sidecars, through their control planes."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click

from meshproxy.cli import _control_planes, _live, _mesh, _options
from meshproxy.cli._local_page import read_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LONGEST = 600.0
"""Seconds: `control.taps.LONGEST`."""


def _read_seconds(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """Raises BadParameter."""
    seconds = _live.read_seconds(context, parameter, value)
    if seconds > LONGEST:
        raise click.BadParameter(f"expected at most {LONGEST / 60:g}m, got {value}")
    return seconds


options = _options.together(
    _mesh.control,
    click.option(
        "--sidecar",
        "sidecars",
        multiple=True,
        metavar="GLOB",
        help="With --control: these sidecars, by SPIFFE ID, NAMESPACE/ACCOUNT, document or host; may be repeated.",
    ),
    click.option(
        "-t",
        "--time-window",
        "window",
        default="10m",
        show_default=True,
        callback=_read_seconds,
        metavar="TIME",
        help="With --control: end after this time, up to 10m.",
    ),
)
"""Which sidecars, and for how long."""


@contextmanager
def opened(
    addresses: Sequence[str], sidecars: Sequence[str], seconds: float, fields: _live.Fields, timeout: float
) -> Iterator[_live.Lines]:
    """The lines of all control planes. Raises Ended."""
    where = [read_address(address, "--control", _control_planes.DEFAULT) for address in dict.fromkeys(addresses)]
    query = urlencode([*(("sidecar", each) for each in sidecars), ("seconds", f"{seconds:g}"), *fields])
    with closing(_live.Lines(where, f"/tap?{query}", timeout, _control_planes.order_headers())) as lines:
        yield lines
