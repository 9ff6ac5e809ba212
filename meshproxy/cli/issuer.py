"""`meshproxy issuer`: a token issuer for development."""

from __future__ import annotations

import asyncio

import click

from meshproxy.cli import _extra


@click.command("issuer", short_help="Run a token issuer, for development.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=18520,
    show_default=True,
    help="The port to listen on; 0 takes a free one.",
)
@click.option("--name", metavar="HOST", help="The host in its URL, which is in its tokens.  [default: the address]")
@click.option("--audience", default="models", show_default=True, help="The audience of its tokens.")
@click.option(
    "--algorithm",
    type=click.Choice(["RS256", "ES256"]),
    default="RS256",
    show_default=True,
    help="The signature algorithm.",
)
@click.option(
    "--client",
    "clients",
    multiple=True,
    default=["quoter:secret:finance"],
    show_default=True,
    metavar="NAME:SECRET[:GROUP,...]",
    help="A client, its secret and the groups in its tokens; may be repeated.",
)
@click.option(
    "--person",
    "people",
    multiple=True,
    metavar="NAME[:GROUP,...]",
    help="Somebody who can log in to a page on this host, without a password, and their groups; may be repeated.",
)
def command(
    host: str,
    port: int,
    name: str | None,
    audience: str,
    algorithm: str,
    clients: tuple[str, ...],
    people: tuple[str, ...],
) -> None:
    """Run a token issuer for development: OpenID Connect discovery, JWKS, the client credentials grant, and the
    authorization code flow with PKCE.

    Prints its addresses as one line of JSON. Needs the extra "demo": in a clone, pipx install '.[demo]'.
    """
    with _extra.needed("demo"):
        from meshproxy.devtools.issuer import parse_clients, parse_people, run
    try:
        known = parse_clients(clients)
    except ValueError:
        raise click.BadParameter("expected NAME:SECRET or NAME:SECRET:GROUP,GROUP", param_hint="--client") from None
    try:
        named = parse_people(people)
    except ValueError:
        raise click.BadParameter("expected NAME or NAME:GROUP,GROUP", param_hint="--person") from None
    try:
        asyncio.run(run(host, port, name, audience, algorithm, known, named))
    except OSError as error:
        raise click.ClickException(f"cannot listen: {error.strerror or error}") from None


if __name__ == "__main__":
    command()
