"""`meshproxy ca`: certificates for development."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click


@click.group("ca")
def command() -> None:
    """Make certificates for development."""


@command.command("dev")
@click.option(
    "--out",
    "directory",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder to write to; it is made if it does not exist.",
)
@click.option("--trust-domain", default="dev.example", show_default=True, help="The trust domain of the mesh.")
@click.option(
    "--server",
    default=None,
    metavar="SPIFFE-ID",
    help="Who the sidecar is.  [default: spiffe://TRUST-DOMAIN/ns/models/sa/tensorflow-serving]",
)
@click.option(
    "--client",
    "clients",
    multiple=True,
    metavar="SPIFFE-ID",
    help="A caller; may be given several times.  [default: .../ns/pricing/sa/quoter and .../ns/batch/sa/nightly]",
)
@click.option(
    "--dns",
    multiple=True,
    default=["localhost"],
    show_default=True,
    help="A host name of the sidecar, for clients that look at names instead of SPIFFE ids.",
)
@click.option(
    "--days", default=30, show_default=True, type=click.IntRange(min=1), help="How long the certificates are valid."
)
@click.option(
    "--new-authority", is_flag=True, help="Replace an authority that is there; what it issued is worthless then."
)
def dev(
    directory: Path,
    trust_domain: str,
    server: str | None,
    clients: tuple[str, ...],
    dns: tuple[str, ...],
    days: int,
    new_authority: bool,
) -> None:
    """Make an authority, a certificate for a sidecar and some for its callers.

    Writes ca.pem and ca-key.pem, server.pem and server-key.pem, and a pair for each caller, called like the last
    segment of its id. An authority that is there already is used again, so that running sidecars trust what is made
    later.

    \b
    Example:
        meshproxy ca dev --out certs/out --client spiffe://dev.example/ns/pricing/sa/quoter
    """
    from meshproxy.devtools.ca import DevelopmentCA
    from meshproxy.identity.peer import PeerRefused, read_spiffe_id

    server = server or f"spiffe://{trust_domain}/ns/models/sa/tensorflow-serving"
    clients = clients or (
        f"spiffe://{trust_domain}/ns/pricing/sa/quoter",
        f"spiffe://{trust_domain}/ns/batch/sa/nightly",
    )
    names = {"server": server}
    for spiffe_id in (server, *clients):
        try:
            domain, path = read_spiffe_id(spiffe_id.encode(errors="replace"))
        except PeerRefused as refused:
            raise click.UsageError(f"{spiffe_id!r}: {refused.message}") from None
        if domain != trust_domain:
            raise click.UsageError(f"{spiffe_id!r} is not of the trust domain {trust_domain}")
        if spiffe_id in clients and names.setdefault(path.rpartition("/")[2], spiffe_id) != spiffe_id:
            raise click.UsageError(f"{spiffe_id!r} would be written over another certificate of the same name")

    if (directory / "ca.pem").exists() and not new_authority:
        try:
            authority = DevelopmentCA.load(directory)
        except (OSError, ValueError) as error:
            raise click.ClickException(f"{error}; --new-authority replaces it") from None
        if authority.trust_domain != trust_domain:
            raise click.ClickException(
                f"{directory}/ca.pem is of trust domain {authority.trust_domain}: another folder or --new-authority"
            )
    else:
        authority = DevelopmentCA.create(trust_domain)
    written = [authority.write(directory)]
    for name, spiffe_id in names.items():
        issued = authority.issue(spiffe_id, dns=dns if name == "server" else (), lifetime=timedelta(days=days))
        written += issued.write(directory, name)
    for path_written in written:
        click.echo(path_written)


if __name__ == "__main__":
    command()
