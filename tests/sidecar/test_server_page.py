"""The page of a real server, and what it is when there is none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.devtools.model_server import ModelServer, Ports
from meshproxy.devtools.model_service import Service
from meshproxy.devtools.models import Catalogue, Model
from meshproxy.inference.tfserving_metrics import MOST_LINES, PageError
from meshproxy.sidecar import server_page
from meshproxy.sidecar.server_page import SLICE, NoPage, feed, read_page

PATH = b"/monitoring/prometheus/metrics"


def endpoint(rest: str | None, *, is_sidecar: bool = False) -> Any:
    pool = SimpleNamespace(address=rest, peer=None) if rest is not None else None
    return SimpleNamespace(name="e", rest=pool, is_sidecar=is_sidecar)


async def test_a_page_over_a_connection_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    server = await ModelServer.start(Service(Catalogue([Model("m", (1,))])), Ports())
    try:
        page = await read_page(endpoint(server.rest), PATH)
        assert page == b"# TYPE :tensorflow:serving:request_count counter\n"
        with pytest.raises(NoPage, match="--monitoring_config_file") as caught:
            await read_page(endpoint(server.rest), b"/elsewhere")
        assert caught.value.result == "absent"
        with pytest.raises(NoPage, match="status 400") as caught:
            await read_page(endpoint(server.rest), b"/v1/elsewhere")
        assert caught.value.result == "failed"
        monkeypatch.setattr(server_page, "PAGE_BYTES", 10)
        with pytest.raises(NoPage, match="exceeds 10 bytes"):
            await read_page(endpoint(server.rest), PATH)
    finally:
        await server.stop()
    with pytest.raises(NoPage, match="Connection refused"):
        await read_page(endpoint(server.rest), PATH)


@pytest.mark.parametrize("where", [endpoint(None), endpoint("127.0.0.1:1", is_sidecar=True)])
async def test_an_endpoint_without_rest_has_none(where: Any) -> None:
    with pytest.raises(NoPage, match="no address for REST") as caught:
        await read_page(where, PATH)
    assert caught.value.result == "absent"


@pytest.mark.parametrize("line", [b"", b"a 1"])
async def test_a_page_of_too_many_lines_is_not_split(line: bytes) -> None:
    slices: list[list[bytes]] = []
    with pytest.raises(PageError, match="more than 50000 lines"):
        await feed(SimpleNamespace(feed=slices.append), (line + b"\n") * (MOST_LINES + 1))
    assert slices == []


async def test_a_reader_gets_every_line_in_slices() -> None:
    slices: list[list[bytes]] = []
    await feed(SimpleNamespace(feed=slices.append), b"\n".join(b"%d" % number for number in range(2 * SLICE + 1)))
    assert [len(each) for each in slices] == [SLICE, SLICE, 1]
    assert [line for each in slices for line in each] == [b"%d" % number for number in range(2 * SLICE + 1)]
