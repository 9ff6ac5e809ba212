from __future__ import annotations

import re
import sys

import click
import pytest

from meshproxy.cli import _extra


def test_what_is_there_is_imported() -> None:
    with _extra.needed("demo"):
        import aiohttp

        assert aiohttp.__version__


@pytest.mark.parametrize(
    ("missing", "there", "install"),
    [("demo", (), "demo"), ("demo", ("lightkube",), "control,demo"), ("control", ("grpc",), "control,demo")],
)
def test_what_is_missing_is_named_with_what_is_there_already(
    missing: str, there: tuple[str, ...], install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.setattr(_extra, "find_spec", lambda package: package in there or None)
    says = f"aiohttp is missing: in a clone, pipx install --force '.[{install}]'"
    with pytest.raises(click.ClickException, match=f"^{re.escape(says)}$"), _extra.needed(missing):
        import aiohttp  # noqa: F401


def test_other_failures_pass() -> None:
    with pytest.raises(ImportError, match="as it is"), _extra.needed("demo"):
        raise ImportError("as it is")
