"""What every test shares: the two event loops, and how hypothesis runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop
from hypothesis import HealthCheck, settings

# A shared machine makes single examples slow without anything being wrong; tests bound their work with max_examples.
settings.register_profile("meshproxy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("meshproxy")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every async test runs on both loops that a sidecar may run on."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
