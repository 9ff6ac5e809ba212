"""Files of lines that commands read, as log rotation leaves them: as they are, or packed by gzip."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 1 << 20
"""Bytes that are read at once."""
_GZIP = b"\x1f\x8b"
# Not every Python can read them. As text they have no line of ours, which would look as if nothing had happened.
_OTHERS = {b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2"}


@contextmanager
def opened(path: str) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """A file, or for `-` standard input, unpacked if it begins as gzip does.

    Raises:
        click.ClickException: it cannot be read, or another program has packed it.
    """
    try:
        with nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb", buffering=BLOCK) as file:
            buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(Any, file))
            beginning = buffered.peek(6)
            program = next((name for magic, name in _OTHERS.items() if beginning.startswith(magic)), None)
            if program:
                raise click.ClickException(f"cannot read {path}: it is packed by {program}: unpack it, or use gzip")
            with gzip.open(buffered) if beginning.startswith(_GZIP) else nullcontext(buffered) as lines:
                yield lines
    except (OSError, EOFError, zlib.error) as error:
        raise click.ClickException(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
