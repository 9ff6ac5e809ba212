"""What every test shares: the two event loops, and how hypothesis runs."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Generator, Mapping

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import meshproxy.devtools  # noqa: F401 - tells grpcio about processes that tests start
from tests.thorough import IS_THOROUGH, tries

# A shared machine makes single examples slow without anything being wrong; tests bound their work with max_examples.
settings.register_profile(
    "meshproxy",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=tries(100),
)
settings.load_profile("meshproxy")

# Collecting 18,000 tests makes millions of objects and hardly any garbage.
gc.disable()


@given(st.none())
@settings(max_examples=1, database=None)
def nothing(_: None) -> None:
    """Has hypothesis register its random generators."""


def pytest_collection_finish() -> None:
    """The garbage collector leaves alone what was there before the first test: tests of reference counting, and rounds
    of the load generator, make whole collections. hypothesis looks for who holds a random generator among what is not
    frozen, so it registers its own before."""
    nothing()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> Generator[None, object, object]:
    """Otherwise each test keeps its timer, 40 objects that every whole garbage collection looks at."""
    is_done = yield
    vars(item).pop("cancel_timeout", None)
    return is_done


@pytest.hookimpl(optionalhook=True)  # suites that run alone leave xdist out
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: tests of whole processes wait a third of their time, for a start or a timer."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Sidecar and control plane run on uvloop, some tools for developers on asyncio. A thorough run takes both for
    everything: what is right on one of them only is right by chance."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}
    if IS_THOROUGH or "devtools" in item.path.parts:
        loops["asyncio"] = asyncio.new_event_loop
    return loops


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Long bytes make names that nobody can read or type, and compressed ones differ between the processes of a run."""
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) and len(val) > 24 else None
