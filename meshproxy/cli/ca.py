"""`meshproxy ca`: certificates for development."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from meshproxy.devtools.ca import DevelopmentCA


@click.group("ca")
def command() -> None:
    """Make certificates for development."""


@command.command("dev", short_help="Issue certificates for a sidecar and its callers.")
@click.option(
    "--out",
    "directory",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder to write to; it is created if it does not exist.",
)
@click.option("--trust-domain", default="dev.example", show_default=True, help="The trust domain of the mesh.")
@click.option(
    "--server",
    default=None,
    metavar="SPIFFE-ID",
    help="The SPIFFE id of the sidecar.  [default: spiffe://TRUST-DOMAIN/ns/models/sa/tensorflow-serving]",
)
@click.option(
    "--client",
    "clients",
    multiple=True,
    metavar="SPIFFE-ID",
    help="The SPIFFE id of a caller; may be repeated.  [default: .../ns/pricing/sa/quoter and .../ns/batch/sa/nightly]",
)
@click.option(
    "--dns",
    multiple=True,
    default=["localhost"],
    show_default=True,
    help="A host name in the sidecar's certificate, for clients that check names; may be repeated.",
)
@click.option(
    "--days",
    default=30,
    show_default=True,
    type=click.IntRange(min=1),
    help="The lifetime of the certificates in days.",
)
@click.option(
    "--new-authority", is_flag=True, help="Replace an existing CA. Certificates of the old one are no longer trusted."
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
    """Issue a certificate for a sidecar and one for each of its callers, from a development CA.

    Writes ca.pem, server.pem, and a file for each caller that is named after the last segment of its SPIFFE id, with
    the keys in ca-key.pem, server-key.pem and so on. A CA that is already in the folder is used again, so that running
    sidecars trust the new certificates.

    \b
    Example:
        meshproxy ca dev --out certs/out --client spiffe://dev.example/ns/pricing/sa/quoter
    """
    server = server or f"spiffe://{trust_domain}/ns/models/sa/tensorflow-serving"
    clients = clients or (
        f"spiffe://{trust_domain}/ns/pricing/sa/quoter",
        f"spiffe://{trust_domain}/ns/batch/sa/nightly",
    )
    names = _file_names(trust_domain, server, clients)
    authority = _authority(directory, trust_domain, is_new=new_authority)
    written = [authority.write(directory)]
    for name, spiffe_id in names.items():
        issued = authority.issue(spiffe_id, dns=dns if name == "server" else (), lifetime=timedelta(days=days))
        written += issued.write(directory, name)
    for path in written:
        click.echo(path)


def _file_names(trust_domain: str, server: str, clients: tuple[str, ...]) -> dict[str, str]:
    """The SPIFFE ids by the names of their files."""
    from meshproxy.identity.peer import PeerRefused, read_spiffe_id

    names = {"server": server}
    for spiffe_id in (server, *clients):
        try:
            domain, path = read_spiffe_id(spiffe_id.encode(errors="replace"))
        except PeerRefused as refused:
            raise click.UsageError(f"{spiffe_id!r}: {refused.message}") from None
        if domain != trust_domain:
            raise click.UsageError(f"{spiffe_id!r} is not in the trust domain {trust_domain}; see --trust-domain")
        if spiffe_id in clients and names.setdefault(path.rpartition("/")[2], spiffe_id) != spiffe_id:
            raise click.UsageError(f"{spiffe_id!r} would overwrite another certificate with the same last segment")
    return names


def _authority(directory: Path, trust_domain: str, *, is_new: bool) -> DevelopmentCA:
    """The CA in the folder, or a new one."""
    from meshproxy.devtools.ca import DevelopmentCA

    if is_new or not (directory / "ca.pem").exists():
        return DevelopmentCA.create(trust_domain)
    try:
        authority = DevelopmentCA.load(directory)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{error}; --new-authority replaces it") from None
    if authority.trust_domain != trust_domain:
        raise click.ClickException(
            f"{directory}/ca.pem is the CA of {authority.trust_domain}, not of {trust_domain}; use another folder, or "
            "replace it with --new-authority"
        )
    return authority


if __name__ == "__main__":
    command()
