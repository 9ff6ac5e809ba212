"""The extras, which some commands need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def needed(extra: str, failure: type[click.ClickException] = click.ClickException) -> Iterator[None]:
    """Around imports from an extra. Raises `failure` if one is missing: it says how to install the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise failure(f"{error.name} is missing: in a clone, pipx install --force '.[{extra}]'") from None
