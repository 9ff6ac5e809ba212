"""Files of the page, and the libraries of others among them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshproxy import web
from meshproxy.web.assets import Assets
from tests.view.meshes import mesh
from tests.web.meshes import Client, FixedSource, client

STATIC = Path(web.__file__).parent / "static"
VENDOR = STATIC / "vendor"
MANIFEST = json.loads((VENDOR / "manifest.json").read_text())


@pytest.fixture
async def page() -> AsyncIterator[Client]:
    async with client(FixedSource(mesh(5, 1_000_000.0), 1_000_000.0)) as (found, _):
        yield found


def test_libraries_of_others_are_what_the_manifest_says() -> None:
    assert {path.name for path in VENDOR.glob("*.js")} == set(MANIFEST)
    for name, entry in MANIFEST.items():
        content = (VENDOR / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], name
        assert re.fullmatch(r"\d+\.\d+\.\d+", entry["version"])
        for each in (entry, *entry.get("contains", {}).values()):
            assert each["licence"] == "MIT"
            assert "Permission is hereby granted" in (VENDOR / each["licenceFile"]).read_text()
    assert MANIFEST["cytoscape.min.js"]["version"].encode() in (VENDOR / "cytoscape.min.js").read_bytes()
    dagre = MANIFEST["cytoscape-dagre.min.js"]["contains"]["@dagrejs/dagre"]["version"]
    assert f'version:"{dagre}"'.encode() in (VENDOR / "cytoscape-dagre.min.js").read_bytes()


def test_own_scripts_put_no_text_into_the_page_as_html() -> None:
    for path in STATIC.glob("*.js"):
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert way not in path.read_text(), path.name


async def test_an_address_has_the_hash_of_its_content(page: Client) -> None:
    url = Assets().url("mesh.js")
    async with page.get(url) as answer:
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.content_type == "text/javascript"
        assert await answer.read() == (STATIC / "mesh.js").read_bytes()
    async with page.get("/static/mesh.js?v=older") as answer:
        assert answer.headers["cache-control"] == "no-cache"
    async with page.get("/static/vendor/cytoscape.min.js", headers={"accept-encoding": "gzip"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize(
    "name", ["no-such.js", "../routes.py", "%2e%2e/routes.py", "vendor/manifest.json", "vendor/", ""]
)
async def test_nothing_else_is_served(page: Client, name: str) -> None:
    async with page.get(f"/static/{name}") as answer:
        assert answer.status == 404
