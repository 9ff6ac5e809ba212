"""`meshproxy sidecar`."""

from __future__ import annotations

import os
import sys

import click

from meshproxy.cli import _options
from meshproxy.config.child_process import running
from meshproxy.log_level import VARIABLE


@click.command(name="sidecar", short_help="Run a sidecar beside a model server or an application.")
@click.option(
    "--config",
    "paths",
    multiple=True,
    required=True,
    type=click.Path(exists=True),
    metavar="PATH",
    help="A file of documents, or a folder of them; may be repeated.",
)
@_options.log_level("The level of the log on standard error. Traffic is in the access log.")
def command(paths: tuple[str, ...], log_level: str) -> None:
    """Run a sidecar beside a model server or an application.

    SIGTERM drains it: it finishes the requests in flight, then exits. SIGHUP, or a change of the files, reloads the
    documents; if they have problems, the sidecar logs them and keeps the old ones. Find problems beforehand with
    `meshproxy config check`.
    """
    # Replaces this process, so that the libraries of the command line do not stay in the sidecar's memory.
    os.environ[VARIABLE] = log_level
    os.execv(sys.executable, [*running("meshproxy.sidecar"), *paths])  # noqa: S606
