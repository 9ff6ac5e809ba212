from __future__ import annotations

import sys

import click
import pytest

from meshproxy.cli import _extra


def test_what_is_there_is_imported() -> None:
    with _extra.needed("demo"):
        import aiohttp

        assert aiohttp.__version__


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with (
        pytest.raises(click.ClickException, match=r"^aiohttp is missing: in a clone, pipx .* '\.\[demo\]'$"),
        _extra.needed("demo"),
    ):
        import aiohttp  # noqa: F401


def test_other_failures_pass() -> None:
    with pytest.raises(ImportError, match="as it is"), _extra.needed("demo"):
        raise ImportError("as it is")
