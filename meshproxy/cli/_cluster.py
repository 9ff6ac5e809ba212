"""Options of the commands that ask the API server of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from meshproxy.cli import _extra, _options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx2

T = TypeVar("T")


class CannotAsk(click.ClickException):
    """There is no way to ask. These commands grade: their exit status 1 is something to look at."""

    exit_code = 2


options = _options.together(
    click.option(
        "--kubeconfig",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="PATH",
        help="How the cluster is called.  [default: as a pod in it, or by KUBECONFIG, or ~/.kube/config]",
    ),
    click.option("--context", metavar="NAME", help="The context of the kubeconfig.  [default: its current one]"),
)
"""`--kubeconfig` and `--context`."""


def ask(kubeconfig: Path | None, context: str | None, questions: Callable[[httpx2.AsyncClient], Awaitable[T]]) -> T:
    """What comes of asking the API server. Raises CannotAsk."""
    with _extra.needed("control", CannotAsk):
        from meshproxy.control.cluster import ClusterError, connect_paths
    import asyncio

    async def call() -> T:
        async with connect_paths(kubeconfig, context) as client:
            return await questions(client)

    try:
        return asyncio.run(call())
    except ClusterError as error:
        raise CannotAsk(str(error)) from None
