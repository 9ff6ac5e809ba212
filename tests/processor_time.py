"""Processor time that stands still, for tests of connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshproxy.transport import connection, h1, h2


@pytest.fixture(autouse=True, scope="module")
def reads_take_no_time() -> Iterator[None]:
    """How much is read at once goes by processor time, in which two runs differ."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (connection, h1, h2):
            patch.setattr(module, "thread_time", lambda: 0.0)
        yield
