"""`meshproxy sidecar`."""

from __future__ import annotations

import os
import sys

import click


@click.command(name="sidecar", short_help="Run a sidecar beside a model server.")
@click.option(
    "--config",
    "paths",
    multiple=True,
    required=True,
    type=click.Path(exists=True),
    metavar="PATH",
    help="A document file, or a folder of them; may be given several times.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    envvar="MESHPROXY_LOG_LEVEL",
    help="How much the application's log on standard error says. Traffic is in the access log.",
)
def command(paths: tuple[str, ...], log_level: str) -> None:
    """Run a sidecar beside a model server.

    It serves until SIGTERM, then drains. SIGHUP, or a change of the files, takes a new configuration; one that has
    problems is not taken. `meshproxy config check` says the same problems beforehand.
    """
    # The process becomes the sidecar: this command line's libraries are not to stay in its memory.
    os.environ["MESHPROXY_LOG_LEVEL"] = log_level
    os.execv(sys.executable, [sys.executable, "-m", "meshproxy.sidecar", *paths])  # noqa: S606
