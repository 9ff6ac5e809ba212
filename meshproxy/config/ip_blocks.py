"""Blocks of IP addresses in CIDR notation (RFC 4632, RFC 4291 section 2.3), and whether an address is in one.

An IPv4 client of a socket that listens on `[::]` has an IPv4-mapped address (`::ffff:192.0.2.1`, RFC 4291 section
2.5.5.2). It is the IPv4 address here, in documents and of connections.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

from meshproxy.config.values import shown

_BLOCK = re.compile(r"([0-9A-Fa-f:.]+)(?:/([0-9]{1,3}))?")
MAPPED_LENGTH = 96
"""Of the prefix of all IPv4-mapped addresses."""

Address = tuple[int, int]
"""The version of IP, and the address as a number."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def read_ip_block(value: object) -> str:
    """An address, or a block of addresses, in its canonical form.

    Raises:
        ValueError: it is neither, or has bits beyond its prefix.
    """
    return str(_parse_block(value))


def _parse_block(value: object) -> Network:
    expected = f'expected an IP address or a block such as "10.0.0.0/8" or "fd00::/8", got {shown(value)}'
    match = _BLOCK.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(expected)
    try:
        address = ipaddress.ip_address(match[1])
        length = int(match[2] or address.max_prefixlen)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None and length >= MAPPED_LENGTH:
            address, length = address.ipv4_mapped, length - MAPPED_LENGTH
        block = ipaddress.ip_network((address, length), strict=False)
    except ValueError:
        raise ValueError(expected) from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        raise ValueError(
            f"{shown(value)} would be a block of IPv6, and no IPv4 client is in one: write the block of IPv4, such as "
            f'"10.0.0.0/8", or a prefix of {MAPPED_LENGTH} bits at least'
        )
    if block.network_address != address:
        raise ValueError(
            f'{shown(value)} has bits beyond its prefix: write "{block}" for the block, or "{address}" for the address'
        )
    return block


def hold_all(blocks: Sequence[str]) -> bool:
    """Whether the blocks, which `read_ip_block` has read, leave out no address of IPv4, or none of IPv6."""
    return any(block.prefixlen == 0 for block in _joined(blocks))


def are_within(blocks: Sequence[str], others: Sequence[str]) -> bool:
    """Whether the others leave out no address of the blocks."""
    joined = _joined(others)
    return all(any(_holds(other, _parse_block(block)) for other in joined) for block in blocks)


def _holds(wide: Network, narrow: Network) -> bool:
    return wide.version == narrow.version and wide.supernet_of(narrow)  # type: ignore[arg-type]


def _joined(blocks: Sequence[str]) -> list[Network]:
    """The fewest blocks that hold the same addresses."""
    parsed = [_parse_block(block) for block in blocks]
    of_4 = ipaddress.collapse_addresses(block for block in parsed if isinstance(block, ipaddress.IPv4Network))
    of_6 = ipaddress.collapse_addresses(block for block in parsed if isinstance(block, ipaddress.IPv6Network))
    return [*of_4, *of_6]


@lru_cache(maxsize=1_024)
def address_of(remote: str) -> Address | None:
    """The address in the `HOST:PORT` of a connection's other end; None if it has none."""
    host = remote.rpartition(":")[0].strip("[]").partition("%")[0]  # the zone of a link-local address
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.version, int(address)


class IpBlocks:
    """A set of blocks, compiled."""

    __slots__ = ("_blocks",)

    def __init__(self, blocks: Sequence[str]) -> None:
        parsed = [_parse_block(block) for block in blocks]
        self._blocks = [(block.version, int(block.network_address), int(block.netmask)) for block in parsed]

    def __contains__(self, address: Address) -> bool:
        version, number = address
        return any(
            number & mask == network for block_version, network, mask in self._blocks if block_version == version
        )
