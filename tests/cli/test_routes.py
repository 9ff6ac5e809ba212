"""`meshproxy routes`: by server, model and verb."""

from __future__ import annotations

from tests.cli.conftest import ServePages
from tests.cli.test__mesh import API, FRAUD, page, run
from tests.view.meshes import calls


def test_a_row_for_each_verb(serve_pages: ServePages) -> None:
    rows = [calls(API, count=10), calls(API, verb="metadata", count=5), calls(API, model="other", count=1)]
    address = serve_pages({"/mesh": page((FRAUD, rows))})
    found = run("routes", "--control", address, "--model", "fraud").stdout.splitlines()
    assert [line.split()[:3] for line in found] == [
        ["SERVER", "MODEL", "VERB"],
        [FRAUD, "fraud", "predict"],
        [FRAUD, "fraud", "metadata"],
    ]
