"""`meshproxy audit`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshproxy.cli import _audit_files, _options
from meshproxy.cli._audit_report import report
from meshproxy.cli._audit_show import search, show
from meshproxy.cli.main import FOUND

if TYPE_CHECKING:
    from meshproxy.audit.verify import Verifier

MOST_SHOWN = 20
"""Problems that are printed."""


@click.group("audit")
def command() -> None:
    """Read the audit trail, and see whether it is as it was written."""


command.add_command(show)
command.add_command(search)
command.add_command(report)


@command.command("key", short_help="Make a key that signs an audit trail.")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
def make_key(path: Path) -> None:
    """Make a key (Ed25519) that signs an audit trail, in a file that only you can read.

    Its public half goes to PATH.pub: give that to whoever verifies the trail.

    \b
    Example:
        meshproxy audit key /etc/meshproxy/audit-key.pem
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    from meshproxy.audit.chain import key_id
    from meshproxy.identity.private_files import replace_file

    public_path = path.with_name(f"{path.name}.pub")
    for each in (path, public_path):
        if each.exists():
            raise click.ClickException(f"{each} exists: lines that it has signed could not be verified without it")
    key = Ed25519PrivateKey.generate()
    public = key.public_key()
    try:
        replace_file(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
        public_path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    except OSError as error:
        raise click.ClickException(f"cannot write {error.filename}: {error.strerror}") from None
    click.echo(f"key {key_id(public.public_bytes_raw())}: {path}, {public_path}")


@command.command("verify", short_help="See whether a trail is as it was written.")
@_audit_files.paths
@_audit_files.public_keys
@click.option(
    "--whole",
    is_flag=True,
    help="The trail has to be there from the first line to the one that says that its writer has stopped.",
)
@click.option(
    "--remember",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PATH",
    help="A file that keeps the last line of each chain: an end that was cut off since the last time is found. It is"
    " written anew if nothing is wrong. Keep it where the writer of the trail cannot write.",
)
@_options.output
def verify(paths: tuple[str, ...], keys: tuple[Path, ...], whole: bool, remember: Path | None, output: str) -> None:
    """See whether a trail is as it was written: no line changed, removed, inserted or moved, and its signatures right.

    Files are read in the order given, each after those that were ended before it (audit.jsonl.000000123456). Exit
    status: 0 if nothing is wrong, 3 if something is.

    \b
    Example:
        meshproxy audit verify /var/log/meshproxy/audit.jsonl --public-key audit-key.pem.pub
    """
    from meshproxy.audit.verify import Verifier

    verifier = Verifier([_audit_files.read_public_key(each) for each in keys], _read_remembered(remember))
    for name in _audit_files.with_ended(paths):
        with _audit_files.opened(name) as lines:
            verifier.read(name, lines)
    verifier.finish()
    notes = _audit_files.notes_of(verifier)
    is_wrong = verifier.problem_count > 0 or not verifier.chains or (whole and not verifier.is_whole)
    if output == "json":
        click.echo(json.dumps(_answer(verifier, notes, is_wrong=is_wrong), indent=2))
    else:
        _print(verifier, notes, is_wrong=is_wrong)
    if is_wrong:
        sys.exit(FOUND)
    if remember is not None:
        known = {chain.id: (chain.sequence, chain.previous) for chain in verifier.chains.values()}
        _write_remembered(remember, known)


def _read_remembered(path: Path | None) -> dict[str, tuple[int, str]]:
    import msgspec

    if path is None or not path.exists():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[int, str]])
    except (OSError, msgspec.DecodeError) as error:
        raise click.ClickException(f"{path} is not what --remember has written: {error}") from None


def _write_remembered(path: Path, known: dict[str, tuple[int, str]]) -> None:
    from meshproxy.identity.private_files import replace_file

    try:
        replace_file(path, json.dumps(known).encode() + b"\n", 0o600)
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from None


def _print(verifier: Verifier, notes: list[str], *, is_wrong: bool) -> None:
    from meshproxy.cli._local_page import printable

    for problem in verifier.problems[:MOST_SHOWN]:
        click.echo(printable(str(problem)))
    if verifier.problem_count > MOST_SHOWN:
        click.echo(f"... and {verifier.problem_count - MOST_SHOWN} more")
    for note in notes:
        click.echo(printable(note))
    lines = sum(chain.lines for chain in verifier.chains.values())
    if not verifier.chains:
        click.echo("NOT VERIFIED: there is no line of a trail")
    elif is_wrong and not verifier.problem_count:
        click.echo(f"NOT WHOLE: {lines} lines are as they were written, but not all of them are here")
    else:
        click.echo(f"TAMPERED WITH: {lines} lines" if is_wrong else f"OK: {lines} lines are as they were written")


def _answer(verifier: Verifier, notes: list[str], *, is_wrong: bool) -> dict[str, object]:
    return {
        "apiVersion": "meshproxy.dev/v1alpha1",
        "kind": "AuditVerification",
        "ok": not is_wrong,
        "whole": verifier.is_whole,
        "problems": [
            {"file": each.place.file, "line": each.place.line, "what": each.what.value, "text": each.text}
            for each in verifier.problems
        ],
        "problem_count": verifier.problem_count,
        "notes": notes,
        "chains": [
            {
                "chain": each.id,
                "writer": each.writer,
                "first": each.first,
                "last": each.sequence,
                "hash": each.previous,
                "lines": each.lines,
                "signatures": each.signatures,
                "public_key": each.key.hex() or None,
                "not_covered": each.uncovered,
                "closed": each.is_closed,
                "dropped": each.dropped,
            }
            for each in verifier.chains.values()
        ],
    }
