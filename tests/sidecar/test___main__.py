from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import pytest

from meshproxy.config import child
from meshproxy.sidecar import WORKER, start
from meshproxy.sidecar import __main__ as module


@pytest.fixture
def collector() -> Iterator[SimpleNamespace]:
    """Garbage collection, whose calls are counted: that of the tests stays as it is."""
    calls: list[str] = []
    collector = SimpleNamespace(**{each: partial(calls.append, each) for each in ("disable", "freeze", "enable")})
    collector.set_threshold = lambda *counts: calls.append(f"threshold {counts}")
    yield collector
    assert calls == ["disable", "freeze", f"threshold {(module.NEW_OBJECTS, 10, 10)}", "enable"]


class Loading:
    """Documents that are being read in a fork."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths


@pytest.mark.parametrize(
    ("arguments", "read"),
    [(["a.yaml", "b"], ["a.yaml", "b"]), ([f"{WORKER}0:1:2:3:0:/tmp/x", "a.yaml"], None), ([], [])],
    ids=["sidecar", "worker", "nothing"],
)
def test_documents_are_read_from_the_first_moment_but_by_workers(
    monkeypatch: pytest.MonkeyPatch, collector: SimpleNamespace, arguments: list[str], read: list[str] | None
) -> None:
    asked: list[tuple[list[str], list[str] | None]] = []

    def run(given: list[str], documents: Loading | None) -> int:
        asked.append((given, documents.paths if documents is not None else None))
        return 3

    settled: list[bool] = []
    monkeypatch.setattr(module, "settle", lambda *, reloads: settled.append(reloads))
    monkeypatch.setattr(child, "OwnLoad", Loading)
    monkeypatch.setattr(module, "gc", collector)
    monkeypatch.setattr(start, "run", run)
    assert module.main(arguments) == 3
    assert asked == [(arguments, read)]
    assert settled == [True]
