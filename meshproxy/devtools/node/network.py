"""The network of the nodes: a namespace that stands for the machine, and one for each pod (network_namespaces(7)).

Each pod has an address and one link, to the machine, which routes between them: so a rule on the machine sees all that
pods send, and what comes back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from meshproxy.devtools.network_namespaces import NetworkNamespaces, enter, path_of, run

ADDRESS = "10.78.0.1"
"""Of the machine: of its API server, its name server, and the gateway of its pods."""
SERVICES = "10.0.0.0/24"
"""Addresses of Services."""
_PODS_A_BLOCK = 250


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """The network of one pod."""

    name: str
    address: str

    @property
    def path(self) -> Path:
        """Of the namespace."""
        return path_of(self.name)


def pod_address(number: int) -> str:
    """The address of the pod with this number, from 0."""
    block, last = divmod(number, _PODS_A_BLOCK)
    return f"10.78.{block + 1}.{last + 1}"


def machine_links(name: str, number: int) -> str:
    """Commands of `ip -batch` that link the namespace of a pod, which is there already, to the machine."""
    link = f"pod{number}"
    return f"""\
link add {link} type veth peer name eth0 netns {name}
link set {link} up
route add {pod_address(number)} dev {link}
"""


def pod_links(number: int) -> str:
    """Commands of `ip -batch` in the namespace of the pod, after those of the machine."""
    return f"""\
link set lo up
addr add {pod_address(number)}/32 dev eth0
link set eth0 up
route add {ADDRESS} dev eth0
route add default via {ADDRESS}
"""


class Machine:
    """The machine of all nodes. See `stand`."""

    def __init__(self) -> None:
        self._prefix = f"meshproxy-{os.getpid()}"
        self._namespaces = NetworkNamespaces()
        self._count = 0

    @contextmanager
    def stand(self) -> Iterator[Machine]:
        """Make it, and move this thread there with all that it starts; at the end it is as if nothing had been.

        Raises:
            OSError: only root can, and it takes iproute2 and nftables.
        """
        with self._namespaces.stand():
            enter(self._make("node"))
            run("ip", "link", "set", "lo", "up")
            run("ip", "addr", "add", f"{ADDRESS}/32", "dev", "lo")
            # Only until a rule has replaced the address: without a route there would be nothing to replace it in.
            run("ip", "route", "add", SERVICES, "dev", "lo", "src", ADDRESS)
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            yield self

    def add_pod(self) -> PodNetwork:
        """Make the network of a pod. Raises OSError."""
        number, self._count = self._count, self._count + 1
        name = self._make(f"pod{number}")
        run("ip", "-batch", "-", text=machine_links(name, number))
        run("ip", "-n", name, "-batch", "-", text=pod_links(number))
        return PodNetwork(name, pod_address(number))

    def remove_pod(self, network: PodNetwork) -> None:
        """Its processes have ended."""
        self._namespaces.remove(network.name)

    def translate(self, rules: str) -> None:
        """Rules of nftables for the machine. Raises OSError."""
        run("nft", "-f", "-", text=rules)

    def _make(self, name: str) -> str:
        name = f"{self._prefix}-{name}"
        self._namespaces.make(name)
        return name
