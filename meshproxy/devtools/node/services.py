"""Addresses of Services, and how they become those of pods: rules of nftables, as kube-proxy writes them.

A connection to a port of a Service goes to one of its ready endpoints at random. One that has none is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from meshproxy.control.slices import SERVICE_NAME

TABLE = "meshproxy-services"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service, and where it leads.

    Attributes:
        endpoints: addresses and ports.
    """

    address: str
    port: int
    endpoints: tuple[tuple[str, int], ...]


def service_ports(services: Iterable[Mapping[str, Any]], slices: Iterable[Mapping[str, Any]]) -> list[ServicePort]:
    """All ports over TCP of Services that have an address.

    Args:
        services: as the API server shows them, as are the EndpointSlices.
    """
    by_service: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in slices:
        metadata = each["metadata"]
        name = (metadata.get("labels") or {}).get(SERVICE_NAME, "")
        by_service.setdefault((metadata["namespace"], name), []).append(each)
    found = []
    for service in services:
        spec, metadata = service["spec"], service["metadata"]
        address = spec.get("clusterIP") or "None"
        for port in spec.get("ports") or () if address != "None" else ():
            if port.get("protocol", "TCP") == "TCP":
                own = by_service.get((metadata["namespace"], metadata["name"]), [])
                endpoints = sorted({each for one in own for each in _endpoints(one, port.get("name", ""))})
                found.append(ServicePort(address, port["port"], tuple(endpoints)))
    return sorted(found, key=lambda each: (each.address, each.port))


def _endpoints(found: Mapping[str, Any], port_name: str) -> Iterable[tuple[str, int]]:
    """What a slice has for the port of a Service. An unknown `ready` means ready, and null is the same as none."""
    ports = [port["port"] for port in found.get("ports") or () if (port.get("name") or "") == port_name]
    for endpoint in found.get("endpoints") or ():
        if (endpoint.get("conditions") or {}).get("ready") is not False:
            for port in ports:
                yield endpoint["addresses"][0], port


def rules(ports: Iterable[ServicePort], network: str) -> str:
    """The whole table, which replaces the one that is there at once.

    Args:
        network: the addresses of all Services, such as `10.0.0.0/24`.
    """
    lines = []
    for each in ports:
        if each.endpoints:
            count = len(each.endpoints)
            to = ", ".join(f"{at} : {address} . {port}" for at, (address, port) in enumerate(each.endpoints))
            match = f"ip daddr {each.address} tcp dport {each.port}"
            lines.append(f"    {match} dnat ip to numgen random mod {count} map {{ {to} }}")
    body = "\n".join(lines)
    refuse = f"ip daddr {network} meta l4proto tcp reject with tcp reset"
    return f"""\
table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
  chain services {{
{body}
  }}
  chain prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
  chain output {{ type nat hook output priority -100; jump services; }}
  chain forwarded {{ type filter hook forward priority filter; {refuse}; }}
  chain sent {{ type filter hook output priority filter; {refuse}; }}
}}
"""
