"""What commands are told."""

from __future__ import annotations

import msgspec
import pytest

from meshproxy.view.page import mesh_page, read_mesh
from meshproxy.view.reporters import ReportState
from tests.view.meshes import mesh

NOW = 1e9


def test_the_page_is_read_back() -> None:
    it = mesh(20, NOW)
    page = mesh_page(it, 60.0, NOW + 6.0)
    assert read_mesh(msgspec.json.encode(page)) == page
    (silent,) = page.reporters
    assert (silent.spiffe_id, silent.state) == ("spiffe://mesh.test/ns/serving/sa/model-1", ReportState.SILENT)
    assert page.denials[0].message.startswith("no binding allows")
    assert {each.calls.security for each in page.calls} == {"mtls", "plaintext"}
    shown = sum(row.traffic.calls for row in it.graph(60.0, NOW + 6.0).rows)
    assert sum(sum(each.calls.codes.values()) for each in page.calls) == shown


@pytest.mark.parametrize("page", [b"", b"{}", b'{"kind": "Other"}'])
def test_other_pages(page: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_mesh(page)
