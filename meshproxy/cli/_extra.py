"""The extra "demo", which commands for development need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def demo() -> Iterator[None]:
    """Around imports from the extra. Raises ClickException if one is missing: it says how to install the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing: in a clone, pipx install --force '.[demo]'") from None
