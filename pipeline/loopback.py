"""Hosts of this machine, where no one on a network can read or answer a request."""

from ipaddress import IPv6Address, ip_address


def is_loopback(host: str | None) -> bool:
    """Return whether a host (a name or an address, without port and brackets) is this machine."""
    try:
        address = ip_address(host or "")
    except ValueError:
        return host == "localhost"
    # How a socket that takes both kinds of address shows an IPv4 client; Python 3.11 does not look inside.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
