"""The extras, which some commands need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import click

# The extras that README.md has people install, each with a package that no other one of them brings. `pipx install
# --force` begins anew: an extra that is not named again is gone afterwards.
_ONLY_IN = {"control": "lightkube", "demo": "grpc"}


@contextmanager
def needed(extra: str, failure: type[click.ClickException] = click.ClickException) -> Iterator[None]:
    """Around imports from an extra. Raises `failure` if one is missing: it says how to install the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        extras = ",".join(each for each, package in _ONLY_IN.items() if each == extra or find_spec(package))
        raise failure(f"{error.name} is missing: in a clone, pipx install --force '.[{extras}]'") from None
