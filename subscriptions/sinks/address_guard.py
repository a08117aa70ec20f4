"""Which addresses an outgoing request may reach: public ones, and what was opened on purpose (OP-4)."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

Network: TypeAlias = IPv4Network | IPv6Network

_NAT64 = IPv6Network("64:ff9b::/96")
_6TO4 = IPv6Network("2002::/16")


class AddressRefused(Exception):
    """A host resolves to an address that requests must not reach; the text names the host."""


def is_public(address: str) -> bool:
    """Tell whether an address is on the public internet, also when it only wraps an IPv4 address."""
    try:
        found = _unwrapped(ip_address(address.partition("%")[0]))
    except ValueError:
        return False
    return found.is_global and not found.is_multicast and not found.is_reserved


def check_addresses(host: str, addresses: Sequence[str], allowed: Sequence[Network] = ()) -> str:
    """Return the address to connect to.

    Every address of the host has to be public or allowed: with one of each, which of them is used would be chance.

    Raises:
        AddressRefused: the host has no address, or one that is neither public nor allowed.
    """
    if not addresses:
        raise AddressRefused(f"{host} has no address")
    for address in addresses:
        if not is_public(address) and not _is_allowed(address, allowed):
            raise AddressRefused(f"{host} is not on the public internet")
    return addresses[0]


def _unwrapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _6TO4:
        return IPv4Address((int(address) >> 80) & 0xFFFFFFFF)
    return address


def _is_allowed(address: str, allowed: Sequence[Network]) -> bool:
    try:
        found = _unwrapped(ip_address(address.partition("%")[0]))
    except ValueError:
        return False
    return any(found.version == network.version and found in network for network in allowed)
