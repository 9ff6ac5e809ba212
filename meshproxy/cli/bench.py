"""`meshproxy bench`: what a hop through a sidecar costs in a deployment."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshproxy.cli import _options

if TYPE_CHECKING:
    from meshproxy.devtools.load.session import Plan, Side
    from meshproxy.devtools.load.target import Target

SHARES = (50.0, 90.0, 99.0, 99.9)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class _Duration(click.ParamType[float]):
    """`30s`, `500ms`, `2m`, or seconds as a number."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float | int):
            return float(value)
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)?", str(value).strip())
        if found is None or float(found[1]) == 0:
            self.fail(f"{value!r} is not a duration such as 30s or 2m", param, ctx)
        return float(found[1]) * _UNITS[found[2] or "s"]


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("bench", short_help="Measure what a hop through a sidecar costs.")
@click.option("--target", required=True, metavar="URL", help="The sidecar, such as https://host:18500.")
@click.option(
    "--around", metavar="URL", help="The model server itself, such as http://host:8501, to measure the difference."
)
@click.option("--protocol", type=click.Choice(["rest", "grpc"]), default="rest", show_default=True, help="How to call.")
@click.option("--model", required=True, help="The model to call.")
@click.option(
    "--body", type=_FILE, help="A file with the request: JSON, or a serialized PredictRequest.  [default: a small one]"
)
@click.option(
    "--size",
    type=click.IntRange(30, 64 << 20),
    default=30,
    show_default=True,
    help="Bytes of the request, unless --body is given.",
)
@click.option("--rate", type=click.FloatRange(1, 1e6), default=500.0, show_default=True, help="Requests per second.")
@click.option("--closed", is_flag=True, help="Closed loop: begin a request when one is answered, instead of at a rate.")
@click.option(
    "--poisson",
    is_flag=True,
    help="Begin requests at random (Poisson), as many callers do, instead of at equal intervals.",
)
@click.option(
    "--duration",
    type=_Duration(),
    default=30.0,
    show_default=False,
    help="How long each side is measured, over all rounds.  [default: 30s]",
)
@click.option(
    "--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="How often the two sides alternate."
)
@click.option(
    "--connections", type=click.IntRange(1, 10_000), default=8, show_default=True, help="Connections to each side."
)
@click.option(
    "--streams",
    type=click.IntRange(1, 1_000),
    default=16,
    show_default=True,
    help="Concurrent calls on each connection, for gRPC.",
)
@click.option("--cert", type=_FILE, help="Client certificate (PEM, with its chain).")
@click.option("--key", type=_FILE, help="The key of --cert, if it is not in the same file.")
@click.option("--bundle", type=_FILE, help="The trust bundle (PEM).  [default: the system's]")
@click.option("--server-name", help="The DNS name that the sidecar's certificate must have.  [default: the host]")
@click.option(
    "--server-id",
    metavar="SPIFFE-ID",
    help="The SPIFFE id that the sidecar's certificate must have, instead of a DNS name.",
)
@click.option(
    "--token",
    type=click.File("r"),
    help="A file with a bearer token, or - for standard input. It is sent to the sidecar only.",
)
@click.option(
    "--histogram",
    type=click.Path(path_type=Path),
    metavar="PREFIX",
    help="Write the latencies of each side to PREFIX.SIDE.hgrm (HdrHistogram).",
)
@_options.output
def command(**options: Any) -> None:
    """Measure what a hop through a sidecar costs, in your own deployment.

    Requests begin at a fixed rate, whether or not earlier ones were answered (open loop), and latency counts from the
    time at which they should have begun. With --around, the same requests also go to the model server directly, in
    alternating rounds, and the difference is the cost of the hop.

    Exit status: 0 if there are figures; 1 if there are none, because requests failed or the rate was not kept.
    """
    import os
    import ssl

    import uvloop

    from meshproxy.devtools.load.session import compare

    plan = _plan(options)
    try:
        sides = _sides(options)
        if sys.stderr.isatty():
            found = uvloop.run(compare(sides, plan, _say))
            click.echo("\r\033[K", nl=False, err=True)
        else:
            found = uvloop.run(compare(sides, plan))
    except ssl.SSLError as error:
        what = getattr(error, "verify_message", "") or error.reason or error
        raise click.ClickException(
            f"the TLS handshake failed: {what}; check --bundle, --cert and --server-id"
        ) from None
    except OSError as error:
        what = os.strerror(error.errno) if error.errno else str(error) or "the connection was closed at once"
        sides_tried = " or ".join(filter(None, (options["target"], options["around"])))
        message = f"cannot connect to {sides_tried}: {what}; check the address, http or https, and --cert"
        raise click.ClickException(message) from None
    faults = [fault for side in found if (fault := _fault(side)) is not None]
    if options["histogram"] is not None:
        _write_histograms(options["histogram"], found)
    if options["output"] == "json":
        import json

        click.echo(json.dumps(_document(found, plan, faults), indent=2))
    else:
        click.echo(_text(found, plan, faults))
    sys.exit(1 if faults else 0)


def _plan(options: dict[str, Any]) -> Plan:
    from meshproxy.devtools.load.messages import grpc_request, rest_body
    from meshproxy.devtools.load.session import Plan
    from meshproxy.devtools.load.target import PREDICT

    is_rest = options["protocol"] == "rest"
    if options["body"] is not None:
        body = options["body"].read_bytes()
    else:
        body = rest_body(options["size"]) if is_rest else grpc_request(options["model"], options["size"])
    return Plan(
        protocol=options["protocol"],
        path=f"/v1/models/{options['model']}:predict" if is_rest else PREDICT.decode(),
        body=body,
        rate=None if options["closed"] else options["rate"],
        duration=options["duration"],
        rounds=options["rounds"],
        connections=options["connections"],
        streams=1 if is_rest else options["streams"],
        is_poisson=options["poisson"],
    )


def _sides(options: dict[str, Any]) -> dict[str, Target]:
    """The targets by name. The model server itself gets the client certificate too, but not the token."""
    from meshproxy.devtools.load.session import read_url
    from meshproxy.devtools.load.target import Target, client_tls

    token = options["token"].read().strip() if options["token"] is not None else None
    sides = {}
    for name, option in (("through", "target"), ("around", "around")):
        if options[option] is None:
            continue
        try:
            host, port, is_tls = read_url(options[option])
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint=f"--{option}") from None
        checks_name = options["server_id"] is None or name == "around"
        tls = (
            client_tls(options["bundle"], options["cert"], options["key"], checks_name=checks_name) if is_tls else None
        )
        is_through = name == "through"
        sides[name] = Target(
            host,
            port,
            tls,
            options["server_name"] if is_through else None,
            token if is_through else None,
            options["server_id"] if is_through else None,
        )
    return sides


def _say(side: str, number: int) -> None:
    click.echo(f"\r\033[K{side}, round {number + 1}", nl=False, err=True)


def _fault(side: Side) -> str | None:
    errors = side.errors
    if errors:
        what, count = errors.most_common(1)[0]
        hint = (
            ". Does the sidecar want a client certificate (--cert)?"
            if what == "closed by the peer" and not side.done
            else ""
        )
        total = errors.total() + side.done
        return f"{side.name}: {errors.total()} of {total} requests failed: {what} ({count} times){hint}"
    fault = side.fault()
    return f"{side.name}: {fault}" if fault else None


def _text(found: list[Side], plan: Plan, faults: list[str]) -> str:
    from meshproxy.devtools.load.figures import percentiles, verdict
    from meshproxy.devtools.load.session import hop

    what = "closed loop" if plan.rate is None else f"{plan.rate:g}/s"
    load = f"{plan.connections} connections" + (f" of {plan.streams} streams" if plan.protocol == "grpc" else "")
    lines = [f"{plan.path}, {len(plan.body):,} bytes, {what}, {load}, {plan.rounds} rounds", ""]
    if faults:
        return "\n".join([*lines, *faults])
    names = [f"p{share:g}" for share in SHARES]
    lines.append(f"{'':12}{'requests':>12}{'per second':>12}" + "".join(f"{name + ' ms':>12}" for name in names))
    for side in found:
        of_side = percentiles(side.latencies, SHARES)
        cells = [f"{of_side[share] * 1e3:.3f}" if share in of_side else "-" for share in SHARES]
        counts = f"{side.done:>12,}{side.achieved:>12,.1f}"
        lines.append(f"{side.name:12}{counts}" + "".join(f"{cell:>12}" for cell in cells))
    if len(found) == 2:
        through, around = found
        added = {share: hop(through, around, share) for share in SHARES}
        cells = [f"{cost[0] * 1e3:+.3f}" if cost else "-" for cost in added.values()]
        lines.append(f"{'the hop':36}" + "".join(f"{cell:>12}" for cell in cells) + "   (median of the rounds)")
        p50, p99 = added[50.0], added[99.0]
        if plan.rate is not None and p50 and p99:
            lines += ["", verdict(p50[0], p99[0])]
            if p99[2] - p99[1] > max(abs(p99[0]), 0.001):
                spread = f"{p99[1] * 1e3:.2f} to {p99[2] * 1e3:.2f} ms"
                lines.append(f"p99 differed between rounds, {spread}: use more rounds or a less busy machine")
    lags = [lag for side in found for run in side.rounds for lag in run.lags]
    late = percentiles(lags, (99.0,)).get(99.0)
    own = f"the load generator used {found[0].own_cpu * 1e6:.0f} µs of CPU per request"
    lines += ["", own + (f" and began requests {late * 1e3:.3f} ms late at p99" if late is not None else "")]
    return "\n".join(lines)


def _document(found: list[Side], plan: Plan, faults: list[str]) -> dict[str, Any]:
    """The same as JSON, in seconds. Percentiles are left out where they would mislead."""
    from meshproxy.devtools.load.figures import percentiles
    from meshproxy.devtools.load.session import hop

    document: dict[str, Any] = {
        "protocol": plan.protocol,
        "path": plan.path,
        "bytes": len(plan.body),
        "rate": plan.rate,
        "duration": plan.duration,
        "rounds": plan.rounds,
        "faults": faults,
        "sides": {
            side.name: {
                "requests": side.done,
                "errors": dict(side.errors),
                "per_second": side.achieved,
                "generator_cpu": side.own_cpu,
                "percentiles": {}
                if faults
                else {f"{share:g}": value for share, value in percentiles(side.latencies, SHARES).items()},
            }
            for side in found
        },
    }
    if len(found) == 2 and not faults:
        costs = {share: hop(found[0], found[1], share) for share in SHARES}
        document["hop"] = {
            f"{share:g}": {"median": cost[0], "lowest": cost[1], "highest": cost[2]}
            for share, cost in costs.items()
            if cost is not None
        }
    return document


def _write_histograms(prefix: Path, found: list[Side]) -> None:
    try:
        from hdrh.histogram import HdrHistogram
    except ImportError:
        raise click.ClickException("--histogram needs the package hdrhistogram: pip install hdrhistogram") from None
    for side in found:
        histogram = HdrHistogram(1, 60_000_000, 3)
        for latency in side.latencies:
            histogram.record_value(max(1, round(latency * 1e6)))
        with Path(f"{prefix}.{side.name}.hgrm").open("wb") as file:
            # Recorded in microseconds, written in milliseconds, as the tools of HdrHistogram do.
            histogram.output_percentile_distribution(file, 1_000.0)
