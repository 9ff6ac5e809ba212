"""Options that several commands have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

output = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    help="The format of the output.  [default: text]",
)


def log_level(text: str) -> Callable[[Any], Any]:
    """`--log-level`, with this help."""
    return click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        show_default=True,
        envvar="MESHPROXY_LOG_LEVEL",
        help=text,
    )
