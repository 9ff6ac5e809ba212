from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

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


def test_each_extra_has_a_package_that_no_other_one_brings() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    imported = {"grpc": "grpcio"}  # where the module is not named like the package
    for extra, module in _extra._ONLY_IN.items():
        package = imported.get(module, module)
        bringing = [name for name in _extra._ONLY_IN if any(re.match(rf"{package}\b", each) for each in extras[name])]
        assert bringing == [extra], module
        assert not any(re.match(rf"{package}\b", each) for each in project["dependencies"])


def test_the_extras_of_the_readme_are_told_apart() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    named = {extra for group in re.findall(r"pipx install '\.\[(.*?)\]'", readme) for extra in group.split(",")}
    assert named == set(_extra._ONLY_IN)


def test_other_failures_pass() -> None:
    with pytest.raises(ImportError, match="as it is"), _extra.needed("demo"):
        raise ImportError("as it is")
