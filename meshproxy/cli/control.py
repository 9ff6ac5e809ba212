"""`meshproxy control`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from meshproxy.cli import _authority, _options
from meshproxy.cli._webhook import WebhookChoices, webhook_options
from meshproxy.cli.main import FOUND
from meshproxy.first import settle

if TYPE_CHECKING:
    from meshproxy.config.telemetry import WithoutTrail

FAILURE = 1
LEAST_LIFETIME = 10.0
"""Of issued certificates, in seconds."""
DEFAULT_COMMANDS = "127.0.0.1:18513"


@click.group("control")
def command() -> None:
    """Run the control plane, and let workloads join the mesh."""


@command.command("run", short_help="Run the control plane.")
@webhook_options
@click.option(
    "--folder",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the authority and the join tokens are kept; it is created if it does not exist.",
)
@click.option("--trust-domain", required=True, help="The trust domain of the mesh, such as prod.example.")
@click.option(
    "--spiffe-id",
    default=None,
    metavar="SPIFFE-ID",
    help="Its own identity.  [default: spiffe://TRUST-DOMAIN/ns/meshproxy/sa/control]",
)
@click.option(
    "--listen", default="0.0.0.0:18510", show_default=True, metavar="IP:PORT", help="The port of the sidecars (mTLS)."
)
@click.option(
    "--web",
    default="127.0.0.1:18512",
    show_default=True,
    metavar="IP:PORT",
    help="/livez, /readyz and /metrics; the page of the mesh and /status for this host only, unless --login.",
)
@click.option(
    "--login",
    "login_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="PATH",
    help="A file that says at which OpenID Connect issuer people log in to the page, and what they see there.",
)
@click.option(
    "--commands",
    metavar="IP:PORT",
    help="With --login: the port of commands, for this host only (meshproxy check --control IP:PORT). The web port has"
    " none of their pages then.  [default: 127.0.0.1:18513]",
)
@click.option(
    "--documents",
    multiple=True,
    type=click.Path(exists=True),
    metavar="PATH",
    help="A file of documents for the sidecars, or a folder of them; may be repeated.  [default: none]",
)
@click.option(
    "--cluster-documents",
    is_flag=True,
    help="The documents are objects of the cluster, in its namespace (`meshproxy config crds` prints their kinds);"
    " instead of --documents.",
)
@click.option(
    "--lifetime", default="24h", show_default=True, metavar="DURATION", help="The lifetime of issued certificates."
)
@click.option(
    "--services",
    is_flag=True,
    help="Read the endpoints of Kubernetes Services that documents name from the API server of the cluster; without"
    " saying so with --cluster-documents.",
)
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="PATH",
    help="How the cluster is called.  [default: as a pod in it, or by KUBECONFIG]",
)
@click.option("--namespace", metavar="NAME", help="Where its own objects are.  [default: where it runs]")
@click.option(
    "--authority-secret",
    metavar="NAME",
    help="The authority is kept in this Secret, which is made if there is none, and join tokens beside it; the folder"
    " has a copy.",
)
@click.option(
    "--token-review",
    is_flag=True,
    help="Pods join with the tokens of their service accounts, which the API server of the cluster reviews.",
)
@click.option(
    "--service-account-keys",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="PATH",
    help="Pods join with the tokens of their service accounts, which are verified with this key set of the cluster:"
    " `kubectl get --raw /openid/v1/jwks`.",
)
@click.option(
    "--service-account-issuer",
    metavar="URL",
    help="The issuer of those tokens: `kubectl get --raw /.well-known/openid-configuration`.",
)
@click.option(
    "--trust",
    "trusted",
    multiple=True,
    metavar="DOMAIN=PATH",
    help="Another trust domain whose sidecars may have the documents, such as SPIRE's, and its bundle (PEM), which is"
    " read again when it changes; may be repeated.",
)
@click.option(
    "--connection-rate",
    default=100.0,
    show_default=True,
    type=click.FloatRange(0.0),
    metavar="NUMBER",
    help="Connections a second from one IP address, and ten times as many at once; sidecars behind a load balancer"
    " share one.  0: any number.",
)
@click.option(
    "--drift-interval",
    default="5m",
    show_default=True,
    metavar="DURATION",
    help="How long a model is looked at before it is compared with what it was (docs/drift.md): shorter finds changes"
    " sooner, and forgets sooner what was before.",
)
@click.option(
    "--audit-log",
    default="off",
    show_default=True,
    metavar="PATH",
    help="Where the audit trail goes, of certificates, documents, rollouts, logins and the authority: stdout, off, a"
    " path with a /, or the URL of a collector, such as http://otel-collector:4318.",
)
@click.option(
    "--audit-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="PATH",
    help="The private key that signs it (`meshproxy audit key`).",
)
@click.option(
    "--without-audit",
    type=click.Choice(["refuse", "serve"]),
    default="refuse",
    show_default=True,
    help="Whether certificates are issued, and orders to rollouts taken, while the audit trail cannot be written. An"
    " abort is taken in any case.",
)
@_options.log_level("The level of the log on standard error.")
def run(
    webhook: WebhookChoices,
    folder: Path,
    trust_domain: str,
    spiffe_id: str | None,
    listen: str,
    web: str,
    login_file: Path | None,
    commands: str | None,
    documents: tuple[str, ...],
    cluster_documents: bool,
    lifetime: str,
    services: bool,
    kubeconfig: Path | None,
    namespace: str | None,
    authority_secret: str | None,
    token_review: bool,
    service_account_keys: Path | None,
    service_account_issuer: str | None,
    trusted: tuple[str, ...],
    connection_rate: float,
    drift_interval: str,
    audit_log: str,
    audit_key: Path | None,
    without_audit: str,
    log_level: str,
) -> None:
    """Run the control plane.

    It issues certificates to sidecars, which renew them by themselves. The first start makes the authority of the trust
    domain in the folder; give its certificate, authority.pem, to the sidecars as their trust bundle. To use an
    authority of your own, put authority.pem and authority-key.pem (mode 0600) there before; below a root that is not in
    the folder, add the root as roots.pem. In Kubernetes, --authority-secret keeps it in a Secret instead, for several
    control planes.

    \b
    Example:
        meshproxy control run --folder /var/lib/meshproxy --trust-domain prod.example
    """
    import logging

    import uvloop

    from meshproxy.config import values
    from meshproxy.config.problems import ConfigError
    from meshproxy.config.sidecars import AuditFile
    from meshproxy.config.telemetry import read_audit_log
    from meshproxy.control.allocator import collect_seldom
    from meshproxy.control.app import ControlPlane
    from meshproxy.control.offline_tokens import ClusterKeys, KeysUnusable
    from meshproxy.control.settings import Settings
    from meshproxy.control.store import StoreError
    from meshproxy.identity.certificates import CertificateError
    from meshproxy.telemetry.process_log import open_process_log
    from meshproxy.web.login_file import LoginFileError, read_login_file

    if documents and cluster_documents:
        raise click.UsageError("--documents and --cluster-documents both say where documents come from: keep one")
    if services and not documents and not cluster_documents:
        raise click.UsageError("--services are those that documents name: give --documents, too")
    if (service_account_keys is None) != (service_account_issuer is None):
        raise click.UsageError("--service-account-keys and --service-account-issuer go together")
    if token_review and service_account_keys is not None:
        raise click.UsageError("--token-review and --service-account-keys both say who checks tokens: keep one")
    domain = _options.read(values.read_trust_domain, trust_domain, "--trust-domain")
    own_id = _read_identity(spiffe_id or f"spiffe://{domain}/ns/meshproxy/sa/control", domain, "--spiffe-id")
    try:
        login = read_login_file(login_file) if login_file is not None else None
    except LoginFileError as error:
        raise click.UsageError(f"--login: {error}") from None
    if commands is not None and login is None:
        raise click.UsageError("--commands takes --login: without, commands use the web port")
    settings = Settings(
        folder=folder,
        trust_domain=domain,
        spiffe_id=own_id,
        injector=webhook.injector(own_id, namespace or "meshproxy"),
        listen=_options.read(values.read_listen_address, listen, "--listen"),
        web=_options.read(values.read_listen_address, web, "--web"),
        lifetime=_options.read(values.read_lifetime, lifetime, "--lifetime"),
        trusted=_read_trusted(trusted, domain),
        login=login,
        commands=_options.read(values.read_listen_address, commands or DEFAULT_COMMANDS, "--commands")
        if login is not None
        else None,
        connection_rate=connection_rate,
        drift_interval=_options.read(values.read_duration, drift_interval, "--drift-interval"),
        audit_log=_options.read(read_audit_log, audit_log, "--audit-log"),
        audit=AuditFile(signing_key=str(audit_key) if audit_key is not None else None),
        without_audit=cast("WithoutTrail", without_audit),
        documents=documents,
        cluster_documents=cluster_documents,
        services=services or cluster_documents,
        kubeconfig=kubeconfig,
        namespace=namespace,
        authority_secret=authority_secret,
        token_review=token_review,
        cluster_keys=ClusterKeys(service_account_issuer, service_account_keys)
        if service_account_keys is not None and service_account_issuer is not None
        else None,
    )
    if settings.lifetime < LEAST_LIFETIME:
        raise click.UsageError(f"--lifetime: sidecars need {LEAST_LIFETIME:g} s at least to renew in time")
    settle(reloads=True)
    open_process_log(getattr(logging, log_level.upper()))

    async def serve() -> None:
        plane = await ControlPlane.build(settings)
        collect_seldom()
        await plane.run()

    try:
        uvloop.run(serve())
    except ConfigError as error:
        problems = [str(problem) for problem in error.problems]
        logging.getLogger("meshproxy.control").error(
            "documents rejected; not starting", extra={"fields": {"problems": problems}}
        )
        sys.exit(FOUND)
    except (StoreError, KeysUnusable, CertificateError, OSError) as error:
        logging.getLogger("meshproxy.control").error("cannot start: %s", error)
        sys.exit(FAILURE)


@command.command("join-token", short_help="Make a token with which one workload joins the mesh.")
@_authority.options
@click.option(
    "--identity",
    required=True,
    metavar="SPIFFE-ID",
    help="The SPIFFE id that the workload gets, such as spiffe://prod.example/ns/models/sa/resnet.",
)
@click.option("--expires", default="10m", show_default=True, metavar="DURATION", help="How long the token can be used.")
def join_token(identity: str, expires: str, **place: Any) -> None:
    """Make a token with which one workload joins the mesh.

    It works once, with any control plane of the mesh. Write it into a file that the sidecar's document names
    (spec.controlPlane.joinToken); from then on the sidecar renews its certificate by itself. It prints the token only.

    With --authority-secret you need the rights to get the Secret of the authority, and to get and patch the one beside
    it, NAME-join-tokens (the first token makes it: create).

    \b
    Example:
        meshproxy control join-token --folder /var/lib/meshproxy --identity spiffe://prod.example/ns/models/sa/resnet
    """
    import time

    from meshproxy.config import values
    from meshproxy.control.attestation import make_token
    from meshproxy.control.store import StoreError

    kept = _authority.find(**place)
    lifetime = _options.read(values.read_lifetime, expires, "--expires")
    now = time.time()
    try:
        kept.place.rotation()  # with which the authority is read
        authority = kept.place.find_authority()
        if authority is None:  # a token in another place would never be found
            raise click.ClickException(
                f"{kept.place.where} has no authority, so no control plane uses it: start `meshproxy control run` first"
            )
        text = make_token(kept.tokens, _read_identity(identity, authority.trust_domain, "--identity"), now, lifetime)
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    click.echo(text)


def _read_trusted(given: tuple[str, ...], own: str) -> dict[str, Path]:
    from meshproxy.config import values

    found: dict[str, Path] = {}
    for each in given:
        name, _, path = each.partition("=")
        domain = _options.read(values.read_trust_domain, name, "--trust")
        if not path or domain in (own, *found):
            raise click.UsageError(f"--trust: expected DOMAIN=PATH once for each domain but {own}, got {each}")
        if not Path(path).is_file():
            raise click.UsageError(f"--trust: there is no file {path}")
        found[domain] = Path(path)
    return found


def _read_identity(text: str, trust_domain: str, option: str) -> str:
    from meshproxy.config import values

    identity = _options.read(values.read_spiffe_id, text, option)
    if not identity.startswith(f"spiffe://{trust_domain}/"):
        raise click.UsageError(f"{option}: {identity} is not in the trust domain {trust_domain}")
    return identity


if __name__ == "__main__":
    command()
