"""What a control plane keeps of an hour of calls, and what its page makes of that: megabytes of RSS, in a process of
its own, which nothing else has grown: `python -m tests.figures.view_memory NODES`.
"""

from __future__ import annotations

import json
import os
import sys

import msgspec

from benchmarks.processes import status_bytes
from meshproxy.control.allocator import give_back
from meshproxy.web.events import change
from meshproxy.web.permissions import EVERYTHING, Permission
from meshproxy.web.visible import View
from meshproxy.web.windows import WINDOWS
from tests.view.meshes import EVERY, mesh
from tests.web.meshes import FixedSource

NOW = 1e9
HOUR = 3_600.0
SEES = (
    EVERYTHING,
    frozenset({Permission.GRAPH}),
    frozenset({Permission.GRAPH, Permission.CALLERS}),
    frozenset({Permission.GRAPH, Permission.DENIALS}),
)
"""Viewers whose graphs differ."""


def megabytes() -> float:
    give_back()
    return status_bytes(os.getpid(), "VmRSS") / 2**20


def hour(nodes: int) -> dict[str, float]:
    """A mesh whose sidecars have reported for an hour, and viewers of each kind that look at each window."""
    mesh(nodes, NOW, 10 * EVERY)  # what the first of everything takes
    before = megabytes()
    found = mesh(nodes, NOW, HOUR)
    ring = megabytes() - before
    source = FixedSource(found, NOW)
    view = View(source)
    sent = 0
    for seconds in WINDOWS:
        for sees in SEES:
            graph = view.graph(seconds, sees)
            sent = max(sent, len(msgspec.json.encode(graph)))
            msgspec.json.encode(change(msgspec.structs.replace(graph, nodes=[], edges=[]), graph))
    return {
        "cells": found.ring.cells,
        "ring": ring,
        "page": megabytes() - before - ring,
        "largest graph": sent / 2**20,
    }


if __name__ == "__main__":
    print(json.dumps(hour(int(sys.argv[1]))))
