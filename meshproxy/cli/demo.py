"""`meshproxy demo`: a whole mesh on this machine, real traffic through it, and what became of it."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from meshproxy.devtools.demo import Result
    from meshproxy.devtools.demo_outbound import Scene
    from meshproxy.devtools.local_mesh import LocalMesh


@click.command("demo")
@click.option("--keep", is_flag=True, help="Stay up afterwards, and print what to try.")
def command(keep: bool) -> None:
    """Start a CA, a token issuer, three model servers with sidecars and an application's sidecar here, and send real
    traffic through them.

    Ends with 0 if everything came out as it must, with 1 and the rows that did not otherwise. Needs the extra "demo":
    pip install 'meshproxy[demo]'.
    """
    try:
        import aiohttp  # noqa: F401
        import grpc  # noqa: F401
        import rich  # noqa: F401
    except ImportError as error:
        raise click.ClickException(f"{error.name} is not installed: pip install 'meshproxy[demo]'") from None
    from meshproxy.devtools.child import ChildFailed

    try:
        sys.exit(asyncio.run(_demo(keep)))
    except ChildFailed as error:
        raise click.ClickException(str(error)) from None


async def _demo(keep: bool) -> int:
    from rich.console import Console

    from meshproxy.devtools import demo, demo_outbound
    from meshproxy.devtools.local_mesh import local_mesh

    # Not a terminal: nothing says how wide the reader's page is, and a table cut to 80 is hard to read.
    console = Console() if sys.stdout.isatty() else Console(width=132)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="meshproxy-demo-") as folder:
        async with local_mesh(Path(folder), demo.MODELS, demo.CLIENTS) as mesh:
            console.print(
                f"A CA, a token issuer, a model server ({mesh.rest}, {mesh.grpc}) and a sidecar ({mesh.inbound}), "
                f"two further replicas of both, and an application's sidecar ({mesh.outbound}) "
                f"after {time.monotonic() - started:.1f} s.\n"
            )
            results = [result async for result in demo.run(mesh)]
            _print_table(console, results)
            problems = [f"row {number}: {each.problem}" for number, each in enumerate(results, 1) if each.problem]

            heard = await demo.models_heard_of(mesh.rest)
            console.print(f"What the model server was asked for: {', '.join(f'{k} {v}x' for k, v in heard.items())}.")
            if demo.SECRET_MODEL in heard:
                problems.append(f"the model server was asked for {demo.SECRET_MODEL}, which nobody may call")
            else:
                console.print(f"It has never heard of {demo.SECRET_MODEL}.")

            console.print("\nAn application calls the three replicas through its own sidecar, in plain text:\n")
            scenes = [scene async for scene in demo_outbound.run(mesh)]
            _print_scenes(console, scenes, len(results) + 1)
            problems += [
                f"row {number}: {each.problem}" for number, each in enumerate(scenes, len(results) + 1) if each.problem
            ]

            console.print("From the application's sidecar's /metrics:")
            for line in await demo_outbound.metric_lines(mesh):
                _print_plain(console, "  " + line)
            console.print("\nFrom the first replica's sidecar's /metrics:")
            for line in await demo.metric_lines(mesh):
                _print_plain(console, "  " + line)
            console.print("\nFrom its access log:")
            for result in results:
                if result.log:
                    _print_plain(console, "  " + demo.log_excerpt(result.log))

            for problem in problems:
                console.print(f"NOT AS EXPECTED, {problem}", style="bold red", markup=False)
            if problems:
                for title, child in (("sidecar", mesh.sidecar), ("application's sidecar", mesh.application)):
                    console.print(f"\nThe {title}'s last words:")
                    for line in child.last_words:
                        _print_plain(console, "  " + line)
            seconds = time.monotonic() - started
            if not problems:
                calls = len(results) + sum(scene.calls for scene in scenes)
                console.print(f"\nAll {calls:,} calls came out as they must, in {seconds:.0f} s.", style="green")
            if keep:
                await _stay(mesh)
            return 1 if problems else 0


def _print_plain(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)


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
        "hop ms: median of the call through the sidecar (mTLS, token, policy) less the median of the same call made "
        "directly to the model server in plain text, in turns.\n",
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


async def _stay(mesh: LocalMesh) -> None:
    """Print what to try, and wait for Ctrl-C."""
    from meshproxy.devtools import demo

    certificate = mesh.workload("pricing", "quoter")
    token = await demo.token_of(mesh, demo.QUOTER)
    files = f"--cacert {certificate.bundle} --cert {certificate.certificate} --key {certificate.key}"
    paths = [str(path) for path in (certificate.bundle, certificate.certificate, certificate.key)]
    port = mesh.inbound.rpartition(":")[2]
    click.echo(
        f"""
Still up. The token is valid for five minutes; the policy is in {mesh.directory}/documents: change it, then
kill -HUP {mesh.sidecar.pid}.

TOKEN={token}

curl {files} \\
  -H "authorization: Bearer $TOKEN" -d '{{"instances": [1, 2, 5]}}' \\
  https://localhost:{port}/v1/models/half_plus_two:predict

{sys.executable} - <<PYTHON
import asyncio
from pathlib import Path
from meshproxy.devtools.clients import Certificate, GrpcClient
from meshproxy.devtools.messages import PredictResponse
from meshproxy.devtools.models import predict_request
async def main():
    certificate = Certificate(*map(Path, {paths}))
    async with GrpcClient("{mesh.inbound}", certificate, "$TOKEN") as client:
        request = predict_request("half_plus_two", [1.0, 2.0, 5.0]).SerializeToString()
        answer = await client.call("/tensorflow.serving.PredictionService/Predict", request)
        print(PredictResponse.FromString(answer.body) if answer.status == "OK" else answer)
asyncio.run(main())
PYTHON

The application's side, where one replica of three is dead by now; its routes are in
{mesh.directory}/documents-application, and kill -HUP {mesh.application.pid} takes them anew:

curl -d '{{"instances": [1, 2, 5]}}' http://{mesh.outbound}/v1/models/half_plus_two:predict
curl -d '{{"instances": [1]}}' http://{mesh.outbound}/v1/models/finance-prod:predict

curl http://{mesh.outbound_admin}/metrics
curl http://{mesh.admin}/metrics
tail -f {mesh.access_log}

Ctrl-C ends it and removes everything."""
    )
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
