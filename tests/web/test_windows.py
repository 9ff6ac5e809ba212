"""The times that figures can be of."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from meshproxy.web.windows import DEFAULT, read_window


@pytest.mark.parametrize(
    ("query", "seconds"),
    [("", DEFAULT), ("?seconds=300", 300), ("?seconds=3600", 3600), ("?seconds=301", DEFAULT), ("?seconds=x", DEFAULT)],
)
async def test_read_window(query: str, seconds: int) -> None:
    assert read_window(make_mocked_request("GET", f"/{query}")) == seconds
