"""`meshproxy ca`: certificates for development, and the root of a mesh that has a control plane."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshproxy.cli import _authority, _options
from meshproxy.cli.main import FOUND

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshproxy.control.rotator import Rotator
    from meshproxy.devtools.ca import DevelopmentCA

LOOK_SECONDS = 1.0
"""Between two looks whether the next step of a rotation is safe."""


@click.group("ca")
def command() -> None:
    """Make certificates for development, and rotate the root of a control plane."""


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
    type=click.IntRange(min=1, max=36_500),
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
    dns = tuple(_options.read(_read_certified_name, each, "--dns") for each in dns)
    authority = _development_ca(directory, trust_domain, is_new=new_authority)
    try:
        written = [authority.write(directory)]
        for name, spiffe_id in names.items():
            issued = authority.issue(spiffe_id, dns=dns if name == "server" else (), lifetime=timedelta(days=days))
            written += issued.write(directory, name)
    except OSError as error:
        raise click.ClickException(f"cannot write {error.filename or directory}: {error.strerror}") from None
    for path in written:
        click.echo(path)


def _read_certified_name(name: str) -> str:
    """A host name, as certificates have it, or `*.` with one. Raises ValueError."""
    from meshproxy.config.values import ends_in_number, read_host_name

    if not name.isascii():
        raise ValueError(f"{name}: certificates have names in ASCII (xn--...)")
    wildcard = "*." if name.startswith("*.") else ""
    host = read_host_name(name.removeprefix(wildcard))
    if ends_in_number(host):
        raise ValueError(f"{name} is an address: clients do not look for it among the names")
    return wildcard + host


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


def _development_ca(directory: Path, trust_domain: str, *, is_new: bool) -> DevelopmentCA:
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


# The root of a control plane


@command.command("status", short_help="Show the root of a control plane, and how far its rotation is.")
@_authority.options
@_options.output
def status(output: str, **place: Any) -> None:
    """Show the root of a control plane, how far its rotation is, and who lacks the trust bundle.

    Exit status: 0, or 3 while a rotation is under way whose next step is not safe.
    """
    import json

    from meshproxy.cli import _rotation_text
    from meshproxy.control.store import StoreError

    try:
        state = _rotator(**place).state()
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    if output == "json":
        click.echo(json.dumps(_rotation_text.describe(state), indent=2))
    else:
        for line in _rotation_text.lines(state):
            click.echo(line)
    if state.obstacle is not None:
        sys.exit(FOUND)


@command.command("bundle", short_help="Print the trust bundle of a control plane.")
@_authority.options
def bundle(**place: Any) -> None:
    """Print the trust bundle in force, PEM.

    Sidecars that are connected have it. It is for the others: the `trustBundle` of sidecars that are yet to join, and
    workloads whose certificates are not from this control plane.
    """
    from meshproxy.control.store import StoreError

    try:
        click.echo(_rotator(**place).state().authority.bundle_pem.decode(), nl=False)
    except StoreError as error:
        raise click.ClickException(str(error)) from None


@command.command("rotate", short_help="Replace the root of a control plane, step by step.")
@_authority.options
@click.option("--wait", is_flag=True, help="Take all steps, each as soon as it is safe.")
@click.option("--undo", is_flag=True, help="Go one step back.")
@click.option("--force", is_flag=True, help="Take a step that is not safe; what it breaks is printed.")
def rotate(wait: bool, undo: bool, force: bool, **place: Any) -> None:
    """Replace the root of a control plane, step by step.

    \b
    1. A new root is made, and is trusted beside the old one, which signs.
    2. The new root signs, once every sidecar trusts it.
    3. The old root is not trusted any more, once no certificate of it is valid.
    Then the rotation ends, once every sidecar has forgotten the old root.

    Each call takes one step, if it is safe; control planes notice by themselves. It can be interrupted at any time:
    `meshproxy ca status` shows how far it is, and the next call goes on. Before step 2, give the output of `meshproxy
    ca bundle` to everything that trusts the old root and is not a connected sidecar.

    Exit status: 0 if the step was taken, 3 if it is not safe yet.
    """
    from meshproxy.control.store import StoreError

    if wait and (undo or force):
        raise click.UsageError("--wait takes safe steps forward: it cannot be combined with --undo or --force")
    rotator = _rotator(**place)
    try:
        if wait:
            _take_all_steps(rotator)
        else:
            _take_one_step(rotator, undo=undo, force=force)
    except StoreError as error:
        raise click.ClickException(str(error)) from None


def _take_one_step(rotator: Rotator, *, undo: bool, force: bool) -> None:
    """Raises StoreError, and ends the command if the step is not safe."""
    from meshproxy.cli import _rotation_text
    from meshproxy.control.rotator import Unsafe

    step = rotator.back if undo else rotator.forward
    try:
        ignored = step(is_forced=force)
    except Unsafe as unsafe:
        _say("not safe yet, and not done:", _rotation_text.why(unsafe.obstacle))
        sys.exit(FOUND)
    if ignored is not None:
        _say("forced, and so:", _rotation_text.why(ignored))
    _say(*_rotation_text.lines(rotator.state()))


def _take_all_steps(rotator: Rotator) -> None:
    """Each as soon as it is safe, also if the API server of the cluster is away in between. Raises StoreError."""
    import time

    from meshproxy.cli import _rotation_text
    from meshproxy.control.rotator import Unsafe
    from meshproxy.control.store import Unreachable

    is_under_way = is_other = False
    said = ""
    while True:
        try:
            if is_other:
                state = rotator.state()
                _say(*_rotation_text.lines(state))
                if state.rotation is None:
                    return
                is_other = False
            rotator.forward()
            is_under_way = is_other = True
            said = ""
            continue
        except Unsafe as unsafe:
            is_under_way = True
            what = f"{unsafe}: {len(unsafe.obstacle.leaves)}"
            why = list(_rotation_text.why(unsafe.obstacle))
        except Unreachable as error:
            if not is_under_way:
                raise
            is_other = True  # the step may have been taken all the same, and may have been the last one
            what = str(error)
            why = [f"  {error}"]
        if what != said:
            _say("waiting:", why)
        said = what
        time.sleep(LOOK_SECONDS)


def _say(first: str, *more: str | Iterable[str]) -> None:
    """Lines, and groups of lines."""
    click.echo(first)
    for each in more:
        for line in [each] if isinstance(each, str) else each:
            click.echo(line)


def _rotator(**place: Any) -> Rotator:
    """Raises UsageError and ClickException."""
    from meshproxy.control.rotator import Rotator

    kept = _authority.find(**place)
    return Rotator(kept.place, kept.leaves)


if __name__ == "__main__":
    command()
