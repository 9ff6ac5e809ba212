"""Traffic capture: rules of nftables that lead connections to a sidecar, which nobody has to name then.

Inbound, what others send to the ports of the model server arrives at the sidecar's inbound port. Outbound, what the
application dials arrives at the sidecar's outbound port, which learns the destination from the kernel (`transparent`).
The sidecar's own connections are told by its user, and pass. IPv4 and IPv6 alike (nft(8), family `inet`).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from meshproxy.injection.settings import INBOUND, OUTBOUND, USER

if TYPE_CHECKING:
    from collections.abc import Iterable

TABLE = "meshproxy"
MAX_PORT = 65_535


class CaptureError(ValueError):
    """The rules would not do what is asked for. The text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What is captured in one network namespace.

    Raises:
        CaptureError: it captures nothing, or itself.
    """

    inbound: tuple[int, ...] = ()
    """Ports of the model server. A connection to one of them from another host arrives at `to_inbound`."""
    outbound: tuple[int, ...] = ()
    """Ports elsewhere that the application dials. A connection to one of them arrives at `to_outbound`."""
    to_inbound: int = INBOUND
    to_outbound: int = OUTBOUND
    excluded: tuple[IPv4Network | IPv6Network, ...] = ()
    """Destinations of the application that are left alone."""
    user: int = USER
    """The user id of the sidecar, whose connections are left alone. No other process of the pod may have it."""

    def __post_init__(self) -> None:
        for name, ports in (
            ("inbound", self.inbound),
            ("outbound", self.outbound),
            ("port of the sidecar", (self.to_inbound, self.to_outbound)),
        ):
            for port in ports:
                if not 1 <= port <= MAX_PORT:
                    raise CaptureError(f"{name}: {port} is not a port: 1 to {MAX_PORT}")
        if not self.inbound and not self.outbound:
            raise CaptureError("nothing is captured: name ports, inbound or outbound")
        if self.to_inbound in self.inbound:
            raise CaptureError(f"inbound: {self.to_inbound} is the sidecar's own port: name those of the model server")
        if self.user < 0:
            raise CaptureError(f"user: {self.user} is not a user id")


def rules(capture: Capture) -> str:
    """A program for `nft -f`: the rules in one table, which replaces the one of an earlier run.

    Hooks and priorities are those of destination NAT (nft(8)). Connections over the loopback interface are not
    captured: neither the sidecar's to its model server, nor an application's to something beside it.
    """
    lines = [
        # Deleting a table that is not there is an error; adding one that is there is none.
        f"add table inet {TABLE}",
        f"delete table inet {TABLE}",
        f"table inet {TABLE} {{",
    ]
    if capture.inbound:
        lines += [
            "\tchain inbound {",
            "\t\ttype nat hook prerouting priority -100; policy accept;",
            '\t\tiifname "lo" return',
            f"\t\ttcp dport {_set(capture.inbound)} redirect to :{capture.to_inbound}",
            "\t}",
        ]
    if capture.outbound:
        lines += [
            "\tchain outbound {",
            "\t\ttype nat hook output priority -100; policy accept;",
            f"\t\tmeta skuid {capture.user} return",
            '\t\toifname "lo" return',
            *(f"\t\t{_family(network)} daddr {network} return" for network in capture.excluded),
            f"\t\ttcp dport {_set(capture.outbound)} redirect to :{capture.to_outbound}",
            "\t}",
            # In plain text, and with this pod's identity: for processes of this pod only, wherever it listens.
            "\tchain guard {",
            "\t\ttype filter hook input priority 0; policy accept;",
            f'\t\tiifname != "lo" tcp dport {capture.to_outbound} reject with tcp reset',
            "\t}",
        ]
    lines += ["}", ""]
    return "\n".join(lines)


def _set(ports: Iterable[int]) -> str:
    return "{ " + ", ".join(map(str, sorted(set(ports)))) + " }"


def _family(network: IPv4Network | IPv6Network) -> str:
    return "ip" if network.version == 4 else "ip6"
