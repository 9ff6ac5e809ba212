"""The files of an audit trail, as commands read them."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from meshproxy.cli import _log_files

if TYPE_CHECKING:
    import gzip
    from collections.abc import Iterable, Iterator, Sequence

    from meshproxy.audit.verify import Chain, Verifier

paths = click.argument("paths", nargs=-1, required=True, metavar="FILE...")
"""`-` is standard input."""
public_keys = click.option(
    "--public-key",
    "keys",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="PATH",
    help="The public key whose signatures count (PEM); may be repeated.  [default: whichever the trail names]",
)


def with_ended(given: Sequence[str]) -> list[str]:
    """Files, each after those that it was begun after: `audit.jsonl` after `audit.jsonl.000000123456`."""
    from meshproxy.telemetry.audit_sink import ended_files

    found: dict[str, None] = {}
    for each in given:
        path = Path(each)
        if each != "-" and path.parent.is_dir():
            found |= dict.fromkeys(map(str, ended_files(path)))
        if each == "-" or path.exists() or not found:
            found.setdefault(each)
    return list(found)


@contextmanager
def opened(name: str) -> Iterator[Iterable[bytes]]:
    """The lines of a file, in pieces if one is longer than a line of a trail, also out of what a collector has written.

    Raises:
        click.ClickException: it cannot be read.
    """
    with _log_files.opened(name) as file:
        yield _lines(file)


def _lines(file: IO[bytes] | gzip.GzipFile) -> Iterable[bytes]:
    from meshproxy.audit.chain import LINE_BYTES
    from meshproxy.audit.collected import BEGINNING, REQUEST_BYTES, collected

    first = file.readline(LINE_BYTES + 1)
    if first.startswith(BEGINNING):  # what a collector has written
        rest = file.readline(REQUEST_BYTES) if not first.endswith(b"\n") else b""
        return collected(itertools.chain([first + rest], iter(partial(file.readline, REQUEST_BYTES), b"")))
    return itertools.chain([first] if first else [], iter(partial(file.readline, LINE_BYTES + 1), b""))


def read_public_key(path: Path) -> bytes:
    """The 32 bytes of a public key. Raises click.BadParameter."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise click.BadParameter(f"{path} is not a public key (PEM): {error}", param_hint="--public-key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise click.BadParameter(f"{path} is not a key of Ed25519", param_hint="--public-key")
    return key.public_bytes_raw()


def notes_of(verifier: Verifier) -> list[str]:
    """What is not wrong, but should be known."""
    notes = [note for chain in verifier.chains.values() for note in _notes(chain)]
    torn = [f"{place} is the beginning of a line: its writer is at it, or was killed" for place in verifier.torn]
    return notes + torn


def _notes(chain: Chain) -> list[str]:
    from meshproxy.audit.chain import key_id

    notes = []
    if chain.first > 1:
        notes.append(f"begins with line {chain.first}: earlier files are not here")
    notes += [f"{place}: its process was killed before, or the end was cut off" for place in chain.killed]
    if not chain.is_closed:
        notes.append("has no end: its writer goes on, was killed, or the end was cut off")
    if not chain.signatures:
        notes.append("is not signed: whoever can write the file can write another trail")
    else:
        notes.append(f"{chain.signatures} signatures by the key {key_id(chain.key)}")
        if chain.uncovered:
            notes.append(f"its last {chain.uncovered} lines are covered by no signature yet")
    if chain.dropped:
        notes.append(f"{chain.dropped} events have no line: the output did not take them")
    return [f"chain {chain.id} of {chain.writer}: {note}" for note in notes]
