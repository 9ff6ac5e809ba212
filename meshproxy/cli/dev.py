"""`meshproxy dev`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshproxy.cli import _extra

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshproxy.devtools.child import Child
    from meshproxy.devtools.managed_mesh import ManagedMesh

LIFETIME = 3_600.0
"""Of certificates, in seconds."""
COLOURS = ("cyan", "green", "yellow", "magenta")
LEFT_OUT = ("event", "severity_text", "timestamp", "time", "logger")
"""Of a line of a log: said already, or of no use beside the others."""


@click.group("dev")
def command() -> None:
    """Work on documents with a mesh on this machine."""


@command.command("up", short_help="Run a mesh until Ctrl-C.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="A new folder for documents, identities and keys.  [default: a temporary one]",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    default=("half_plus_two=1,2",),
    show_default=True,
    metavar="NAME=VERSIONS",
    help="A model to serve; may be repeated.",
)
def up(folder: Path | None, models: tuple[str, ...]) -> None:
    """Run a mesh on this machine until Ctrl-C: a model server, a control plane, the sidecar of the model server, and
    that of an application. What they log is shown line by line, in a colour for each.

    The documents are in a folder. Edit them, and the sidecars decide by them at once; what is wrong with them is shown.

    Needs the extra "demo": in a clone, pipx install '.[demo]'.
    """
    with _extra.needed("demo"):
        import aiohttp  # noqa: F401
        import grpc  # noqa: F401
    from meshproxy.devtools.child import ChildFailed, interrupted_by_all

    interrupted_by_all()
    if folder is not None:
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            raise click.UsageError(f"{folder} exists already: name a new folder") from None
        except OSError as error:
            raise click.UsageError(f"--folder {folder}: it cannot be made: {error.strerror}") from None
    try:
        with tempfile.TemporaryDirectory(prefix="meshproxy-dev-") as temporary:
            asyncio.run(_up(folder.absolute() if folder is not None else Path(temporary) / "mesh", models))
    except ChildFailed as error:
        raise click.ClickException(str(error)) from None


async def _up(folder: Path, models: tuple[str, ...]) -> None:
    """Raises ChildFailed."""
    from meshproxy.devtools.child import ChildFailed
    from meshproxy.devtools.local_mesh import local_mesh
    from meshproxy.devtools.managed_mesh import ManagedMesh

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    async with local_mesh(folder, "demo.example") as local:
        server = await local.model_server(*(f"--model={model}" for model in models))
        rest, grpc = str(server.listening["rest"]), str(server.listening["grpc"])
        mesh = await ManagedMesh.start(local, rest, grpc, LIFETIME, "stdout")
        children = {
            "model-server": server,
            "control": mesh.control,
            "replica": mesh.replica.child,
            "application": mesh.application.child,
        }
        for (name, child), colour in zip(children.items(), COLOURS, strict=True):
            _follow(name, child, colour)
        click.echo(_words(mesh))
        waiting = {asyncio.ensure_future(child.wait()): name for name, child in children.items()}
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((stopping, *waiting), return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            ended = [name for task, name in waiting.items() if task.done()]
            raise ChildFailed(f"{' and '.join(ended)} ended: everything else was stopped; the reason is above")
        click.echo("Stopping.")


def is_plain(environ: Mapping[str, str]) -> bool:
    """Whether a terminal is to be sent no colours (https://no-color.org), or has none."""
    return bool(environ.get("NO_COLOR")) or environ.get("TERM") == "dumb"


def _follow(name: str, child: Child, colour: str) -> None:
    """Show what a process has written and what it writes from now on."""
    shown = f"{name:>12}" if is_plain(os.environ) else click.style(f"{name:>12}", fg=colour)

    def show(line: str) -> None:
        click.echo(f"{shown}  {readable(line)}")

    for line in child.output:
        show(line)
    child.on_line = show


def readable(line: str) -> str:
    """A line of JSON as words, the event first; any other line as it is."""
    try:
        fields = json.loads(line)
    except ValueError:
        return line
    if not isinstance(fields, dict):
        return line
    severity = fields.get("severity_text", "INFO")
    words = [] if severity == "INFO" else [str(severity)]
    if event := fields.get("event"):
        words.append(str(event))
    words += _pairs(fields)
    return " ".join(words)


def _pairs(fields: Mapping[str, object]) -> list[str]:
    shown = {name: value for name, value in fields.items() if name not in LEFT_OUT and value not in (None, "", [], {})}
    return [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in shown.items()]


def _words(mesh: ManagedMesh) -> str:
    program = Path(sys.argv[0]).resolve()
    return f"""
The mesh runs until Ctrl-C. What is permitted is in {mesh.policy}: edit it, and call again.

  as the application, in plain text to its sidecar, which goes on over mTLS:
    curl -d '{{"instances": [1, 2, 5]}}' http://{mesh.application.outbound}/v1/models/half_plus_two:predict

  which sidecar has what, and what is wrong:
    {program} proxy-status --control {mesh.web}
    {program} check --control {mesh.web}
"""


if __name__ == "__main__":
    command()
