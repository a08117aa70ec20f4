"""OP-4: which addresses outgoing requests may reach."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.subscriptions.sinks.address_guard import AddressRefused, check_addresses, is_public

NOT_PUBLIC = [
    "127.0.0.1",
    "127.9.9.9",
    "0.0.0.0",  # noqa: S104  an address to refuse, not to bind to
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::7f00:1",
    "2002:7f00:0001::",
    "2002:a9fe:a9fe::",
    "2001:db8::1",
    "localhost",
    "",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_op_04_private_link_local_and_metadata_addresses_are_refused(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(AddressRefused, match=r"partner\.example"):
        check_addresses("partner.example", [address])


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_pass(address: str) -> None:
    assert is_public(address)
    assert check_addresses("partner.example", [address]) == address


def test_op_04_one_private_address_among_public_ones_refuses_the_host() -> None:
    with pytest.raises(AddressRefused):
        check_addresses("partner.example", ["93.184.216.34", "10.0.0.1"])
    with pytest.raises(AddressRefused):
        check_addresses("partner.example", [])


def test_a_network_can_be_opened_on_purpose() -> None:
    allowed = [ip_network("10.2.0.0/16"), ip_network("::1/128")]
    assert check_addresses("inside.example", ["10.2.3.4"], allowed) == "10.2.3.4"
    assert check_addresses("inside.example", ["::ffff:10.2.3.4"], allowed) == "::ffff:10.2.3.4"
    assert check_addresses("inside.example", ["::1"], allowed) == "::1"
    with pytest.raises(AddressRefused):
        check_addresses("inside.example", ["10.3.0.1"], allowed)


@given(st.ip_addresses(v=4))
def test_op_04_wrapping_an_address_changes_nothing(address: object) -> None:
    plain = is_public(str(address))
    assert is_public(f"::ffff:{address}") == plain
    assert is_public(f"64:ff9b::{address}") == plain
