"""`meshproxy demo`: a whole mesh on this machine, with real traffic through it, and the result of each call."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshproxy.cli import _extra

if TYPE_CHECKING:
    from rich.console import Console

    from meshproxy.devtools.clients import Certificate
    from meshproxy.devtools.demo import Result
    from meshproxy.devtools.demo_mesh import DemoMesh
    from meshproxy.devtools.demo_outbound import Scene
    from meshproxy.devtools.managed_mesh import ManagedMesh


@click.command("demo")
@click.option("--keep", is_flag=True, help="Keep running afterwards, and print commands to try.")
def command(keep: bool) -> None:
    """Run a mesh on this machine and send real traffic through it.

    Starts a CA, a token issuer, three model servers with sidecars, the sidecar of an application, and a control plane
    with two sidecars of its own; makes calls that must be permitted or denied, and prints each result.

    Exit status: 0 if every call had the expected result, 1 if not; the rows that failed are printed. Needs the extra
    "demo": in a clone, pipx install '.[demo]'.
    """
    with _extra.needed("demo"):
        import aiohttp  # noqa: F401
        import grpc  # noqa: F401
        import rich  # noqa: F401
    from meshproxy.devtools.child import ChildFailed, interrupted_by_all

    interrupted_by_all()
    try:
        sys.exit(asyncio.run(_demo(keep)))
    except ChildFailed as error:
        raise click.ClickException(str(error)) from None


async def _demo(keep: bool) -> int:
    from rich.console import Console

    from meshproxy.devtools import demo
    from meshproxy.devtools.demo_mesh import demo_mesh
    from meshproxy.devtools.managed_mesh import ManagedMesh

    # Without a terminal the width is unknown, and a table cut to 80 columns is hard to read.
    console = Console() if sys.stdout.isatty() else Console(width=132)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="meshproxy-demo-") as folder:
        async with demo_mesh(Path(folder), demo.MODELS, demo.CLIENTS) as mesh:
            managed = await ManagedMesh.start(mesh.local, mesh.rest, mesh.grpc)
            console.print(
                f"Started in {time.monotonic() - started:.1f} s: a CA, a token issuer, a model server ({mesh.rest}, "
                f"{mesh.grpc}) with a sidecar ({mesh.sidecar.inbound}), two more replicas of both, an application's "
                f"sidecar ({mesh.application.outbound}), and a control plane with two more sidecars.\n"
            )
            results, problems = await _call_the_sidecar(console, mesh)
            scenes, more = await _call_as_the_application(console, mesh, len(results) + 1)
            problems += more
            last, more = await _manage(console, managed, len(results) + len(scenes) + 1)
            scenes += last
            problems += more
            await _print_telemetry(console, mesh, results)
            if problems:
                _print_problems(console, mesh, managed, problems)
            else:
                calls = len(results) + sum(scene.calls for scene in scenes)
                seconds = time.monotonic() - started
                console.print(f"\nAll {calls:,} calls had the expected result, in {seconds:.0f} s.", style="green")
            if keep:
                await _stay(mesh, managed)
            return 1 if problems else 0


async def _call_the_sidecar(console: Console, mesh: DemoMesh) -> tuple[list[Result], list[str]]:
    """Makes and prints the calls of the first part; returns them and what was not as expected."""
    from meshproxy.devtools import demo

    results = [result async for result in demo.run(mesh)]
    _print_table(console, results)
    problems = _problems_of(results, 1)
    requested = await demo.requested_models(mesh.rest)
    console.print(f"The model server was asked for: {', '.join(f'{k} {v}x' for k, v in requested.items())}.")
    if demo.SECRET_MODEL in requested:
        problems.append(f"the model server was asked for {demo.SECRET_MODEL}, which no caller may call")
    else:
        console.print(f"It was never asked for {demo.SECRET_MODEL}.")
    return results, problems


async def _call_as_the_application(console: Console, mesh: DemoMesh, first: int) -> tuple[list[Scene], list[str]]:
    """Plays and prints the scenes of the second part, numbered from `first`; returns them and what was not as
    expected."""
    from meshproxy.devtools import demo_outbound

    console.print("\nAn application calls the three replicas through its own sidecar, in plain text:\n")
    scenes = [scene async for scene in demo_outbound.run(mesh)]
    _print_scenes(console, scenes, first)
    return scenes, _problems_of(scenes, first)


async def _manage(console: Console, mesh: ManagedMesh, first: int) -> tuple[list[Scene], list[str]]:
    """Plays and prints the scenes of the third part, as above."""
    from meshproxy.devtools import demo_control

    console.print("\nA control plane issues the certificates of two more sidecars, and gives them their documents:\n")
    scenes = [scene async for scene in demo_control.run(mesh)]
    _print_scenes(console, scenes, first)
    _show_sidecars(mesh)
    return scenes, _problems_of(scenes, first)


def _show_sidecars(mesh: ManagedMesh) -> None:
    """What `meshproxy proxy-status` prints."""
    from meshproxy.cli import _control_planes
    from meshproxy.cli._proxy_status_text import show
    from meshproxy.control.fleet import members

    click.echo(f"$ meshproxy proxy-status --control {mesh.web}")
    answers = _control_planes.ask([mesh.web], 5.0)
    show(answers, members({each.address: each.status for each in answers if each.status is not None}))
    click.echo()


def _problems_of(rows: Sequence[Result | Scene], first: int) -> list[str]:
    return [f"row {number}: {row.problem}" for number, row in enumerate(rows, first) if row.problem]


async def _print_telemetry(console: Console, mesh: DemoMesh, results: list[Result]) -> None:
    from meshproxy.devtools import demo, demo_outbound

    console.print("From /metrics of the application's sidecar:")
    _print_indented(console, await demo_outbound.metric_lines(mesh))
    console.print("\nFrom /metrics of the first replica's sidecar:")
    _print_indented(console, await demo.metric_lines(mesh))
    console.print("\nFrom its access log:")
    _print_indented(console, [demo.log_excerpt(result.log) for result in results if result.log])


def _print_problems(console: Console, mesh: DemoMesh, managed: ManagedMesh, problems: list[str]) -> None:
    for problem in problems:
        console.print(f"NOT AS EXPECTED, {problem}", style="bold red", markup=False)
    for title, sidecar in (
        ("first replica's", mesh.sidecar),
        ("application's", mesh.application),
        ("managed replica's", managed.replica),
        ("managed application's", managed.application),
    ):
        console.print(f"\nThe last output of the {title} sidecar:")
        _print_indented(console, sidecar.child.last_output)


def _print_indented(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print("  " + line, soft_wrap=True, markup=False, highlight=False)


def _print_table(console: Console, results: list[Result]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("#", "who", "what", "over", "verdict", "by", "status"):
        table.add_column(title, overflow="fold")
    table.add_column("hop ms", justify="right")
    for number, result in enumerate(results, 1):
        colour = "red" if result.problem else "green" if result.verdict == "allowed" else "yellow"
        table.add_row(
            str(number),
            result.row.caller.title,
            result.row.what,
            result.row.call.protocol,
            f"[{colour}]{result.verdict}[/]",
            result.rule,
            result.status,
            "" if result.added is None else f"{result.added:+.2f}",
        )
    console.print(table)
    console.print(
        "hop ms: the median of the call through the sidecar (mTLS, token, policy) minus the median of the same call "
        "made directly to the model server in plain text; the two alternate.\n",
        style="dim",
    )


def _print_scenes(console: Console, scenes: list[Scene], first: int) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("#", "what"):
        table.add_column(title, overflow="fold")
    for title in ("calls", "failed"):
        table.add_column(title, justify="right")
    table.add_column("seen", overflow="fold")
    for number, scene in enumerate(scenes, first):
        colour = "red" if scene.problem else "green"
        table.add_row(str(number), scene.what, f"{scene.calls:,}", f"[{colour}]{scene.failed}[/]", scene.seen)
    console.print(table)


async def _stay(mesh: DemoMesh, managed: ManagedMesh) -> None:
    """Print what to try, and wait for Ctrl-C."""
    from meshproxy.devtools import demo

    certificate = mesh.local.certificate("pricing", "quoter")
    click.echo(_suggestions(mesh, managed, certificate, await demo.token_of(mesh, demo.QUOTER)))
    mesh.sidecar.child.on_line = mesh.application.child.on_line = managed.control.on_line = click.echo
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    await stop.wait()


def _suggestions(mesh: DemoMesh, managed: ManagedMesh, certificate: Certificate, token: str | None) -> str:
    directory = mesh.local.directory
    files = f"--cacert {certificate.bundle} --cert {certificate.certificate} --key {certificate.key}"
    meshproxy = Path(sys.argv[0]).resolve()
    paths = [str(path) for path in (certificate.bundle, certificate.certificate, certificate.key)]
    return f"""
The mesh keeps running. The token is valid for five minutes. The policy is in {directory}/documents:
to change it, edit the files, then run kill -HUP {mesh.sidecar.child.pid}.

TOKEN={token}

curl {files} \\
  -H "authorization: Bearer $TOKEN" -d '{{"instances": [1, 2, 5]}}' \\
  https://localhost:{mesh.sidecar.port}/v1/models/half_plus_two:predict

{sys.executable} - <<PYTHON
import asyncio
from pathlib import Path
from meshproxy.devtools.clients import Certificate, GrpcClient
from meshproxy.devtools.messages import PredictResponse
from meshproxy.devtools.models import predict_request
async def main():
    certificate = Certificate(*map(Path, {paths}))
    async with GrpcClient("{mesh.sidecar.inbound}", certificate, "$TOKEN") as client:
        request = predict_request("half_plus_two", [1.0, 2.0, 5.0]).SerializeToString()
        answer = await client.call("/tensorflow.serving.PredictionService/Predict", request)
        print(PredictResponse.FromString(answer.body) if answer.status == "OK" else answer)
asyncio.run(main())
PYTHON

Calls of the application, which has two of its three replicas left. Its routes are in
{directory}/documents-application, and kill -HUP {mesh.application.child.pid} reloads them:

curl -d '{{"instances": [1, 2, 5]}}' http://{mesh.application.outbound}/v1/models/half_plus_two:predict
curl -d '{{"instances": [1]}}' http://{mesh.application.outbound}/v1/models/finance-prod:predict

Calls of the application whose sidecar the control plane manages. What it gives is in
{directory}/managed/documents, and a change is in use at once:

curl -d '{{"instances": [1, 2, 5]}}' http://{managed.application.outbound}/v1/models/half_plus_two:predict
{meshproxy} edges --control {managed.web} -o wide
{meshproxy} check --control {managed.web}

Who calls what, how fast and how secured, is also on http://{managed.web}/ in a browser.

{meshproxy} top --admin {mesh.sidecar.admin}
{meshproxy} tap --admin {mesh.application.admin}
curl http://{mesh.application.admin}/metrics
curl http://{mesh.sidecar.admin}/metrics
tail -f {mesh.access_log}

Ctrl-C stops the mesh and deletes its files. Below is what two sidecars and the control plane log, for
instance why documents were rejected.
"""
