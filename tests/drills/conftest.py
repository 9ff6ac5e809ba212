"""Hosts of our own: network namespaces that a test makes and removes, joined by a pair of virtual interfaces.

A test is in the application's namespace itself, with everything that it starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshproxy.devtools.local_mesh import LocalMesh
from meshproxy.devtools.network_namespaces import NetworkNamespaces, enter, run

APPLICATION = "10.77.0.1"
MODELS = "10.77.0.2"


class Hosts:
    """Two hosts and the link between them.

    Attributes:
        models: a command that runs another one on the host of the models.
    """

    def __init__(self) -> None:
        self._names = {host: f"meshproxy-{host}-{os.getpid()}" for host in ("app", "models")}
        self.models = ("ip", "netns", "exec", self._names["models"])

    def cut(self) -> None:
        """Whatever is sent from now on is lost, and nobody is told."""
        self._link("down")

    def mend(self) -> None:
        self._link("up")

    def _link(self, state: str) -> None:
        run("ip", "-n", self._names["models"], "link", "set", "models", state)

    def filter(self, rules: str) -> None:
        """Rules of nftables for the application's host."""
        run("ip", "netns", "exec", self._names["app"], "nft", rules)

    @contextmanager
    def stand(self) -> Iterator[Hosts]:
        """Makes them, moves this thread to the application's, and removes them at the end."""
        app, models = self._names.values()
        namespaces = NetworkNamespaces()
        with namespaces.stand():
            for name in (app, models):
                namespaces.make(name)
                run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", app, "link", "add", "app", "type", "veth", "peer", "name", "models", "netns", models)
            for name, interface, address in ((app, "app", APPLICATION), (models, "models", MODELS)):
                run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", interface)
                run("ip", "-n", name, "link", "set", interface, "up")
            enter(app)
            yield self


LANE = os.environ.get("DRILLS_LANE", "on")
"""Whether requests may take the express lane: `make drills DRILLS_LANE=off` sends all of them through the stations."""


@pytest.fixture(autouse=True)
def lane(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the sidecars of the drill have the lane."""
    assert LANE in ("on", "off"), f"DRILLS_LANE is {LANE}: expected on or off"
    monkeypatch.setattr(LocalMesh, "sidecar_defaults", {"expressLane": LANE == "on"})
    return LANE == "on"


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Two hosts that are up. The test is on the application's."""
    assert os.geteuid() == 0, "namespaces need root"
    assert Path("/proc/self/ns/net").exists(), "this system has no network namespaces"
    with Hosts().stand() as standing:
        yield standing
