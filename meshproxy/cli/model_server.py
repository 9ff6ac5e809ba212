"""`meshproxy model-server`: a stand-in for TensorFlow Serving, for development."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from meshproxy.cli import _extra

_PORT = click.IntRange(0, 65_535)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("model-server", short_help="Run a stand-in for TensorFlow Serving, for development.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--rest-port", type=_PORT, default=8501, show_default=True, help="The port of REST; 0 takes a free one.")
@click.option(
    "--port", "grpc_port", type=_PORT, default=8500, show_default=True, help="The port of gRPC; 0 takes a free one."
)
@click.option(
    "--grpc-socket-path", default=None, metavar="PATH", help="A UNIX socket for gRPC, in addition to the port."
)
@click.option(
    "--rest-socket-path", default=None, metavar="PATH", help="A UNIX socket for REST, in addition to the port."
)
@click.option(
    "--tls-certificate", type=_FILE, default=None, help="A certificate (PEM): gRPC is served over TLS, with --tls-key."
)
@click.option("--tls-key", type=_FILE, default=None, help="The private key of the certificate.")
@click.option("--tls-client-ca", type=_FILE, default=None, help="Clients must present a certificate of this authority.")
@click.option("--rest-tls", is_flag=True, help="Serve REST over TLS, too.")
@click.option(
    "--metrics-path",
    default="/monitoring/prometheus/metrics",
    show_default=True,
    help="Where the metrics page is, on the port of REST.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    default=["half_plus_two=1,2", "finance-prod=1,2"],
    show_default=True,
    metavar="NAME=VERSIONS",
    help="A model and its versions; may be repeated. The labels stable and canary are its oldest and newest version.",
)
@click.option("--latency-ms", default=0.0, show_default=True, help="The latency of each answer, in milliseconds.")
@click.option(
    "--failure-rate",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="The share of calls that fail with UNAVAILABLE.",
)
@click.option(
    "--concurrency",
    default=None,
    type=click.IntRange(1),
    help="How many calls are served at a time; others wait.  [default: no limit]",
)
@click.option(
    "--queue",
    default=None,
    type=click.IntRange(0),
    help="How many calls wait with --concurrency; further ones are UNAVAILABLE at once.  [default: no limit]",
)
@click.option("--seed", default=None, type=int, help="The seed of the random failures, to repeat a run.")
def command(
    host: str,
    rest_port: int,
    grpc_port: int,
    grpc_socket_path: str | None,
    rest_socket_path: str | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    rest_tls: bool,
    metrics_path: str,
    models: tuple[str, ...],
    latency_ms: float,
    failure_rate: float,
    concurrency: int | None,
    queue: int | None,
    seed: int | None,
) -> None:
    """Run a stand-in for TensorFlow Serving with tiny models, for development.

    Prints its addresses as one line of JSON. Needs the extra "demo": in a clone, pipx install '.[demo]'.
    """
    with _extra.needed("demo"):
        from meshproxy.devtools.model_server import Ports, ServerTls, parse_models, serve
        from meshproxy.devtools.model_service import Service
        from meshproxy.devtools.models import Catalogue
    try:
        catalogue = Catalogue(parse_models(models))
    except ValueError:
        raise click.BadParameter("expected NAME or NAME=1,2,...", param_hint="--model") from None
    service = Service(
        catalogue,
        latency=latency_ms / 1000,
        failure_rate=failure_rate,
        concurrency=concurrency,
        queue=queue,
        seed=seed,
    )
    if (tls_certificate is None) != (tls_key is None) or (tls_certificate is None and (tls_client_ca or rest_tls)):
        raise click.UsageError("--tls-certificate and --tls-key belong together; the other TLS options need both")
    ports = Ports(
        host,
        rest_port,
        grpc_port,
        rest_socket=rest_socket_path,
        grpc_socket=grpc_socket_path,
        tls=ServerTls(tls_certificate, tls_key, tls_client_ca) if tls_certificate and tls_key else None,
        rest_has_tls=rest_tls,
        metrics_path=metrics_path,
    )
    try:
        asyncio.run(serve(service, ports))
    except OSError as error:
        raise click.ClickException(f"cannot listen: {error.strerror or error}") from None
    except RuntimeError as error:  # grpcio has no other one for this
        if not str(error).startswith("Failed to bind"):
            raise
        raise click.ClickException(f"cannot listen: {str(error).partition(';')[0]}") from None


if __name__ == "__main__":
    command()
