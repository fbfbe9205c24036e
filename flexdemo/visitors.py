"""Who a request is from, by its address. Standard library only; knows no limits and no page."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

PORT = re.compile(r"\[(.+)\](?::\d+)?|([^:]+):\d+")  # an address with a port, as some proxies tell it


def visitor(scope: Mapping[str, Any], proxies: int) -> str:
    """The address that a request is from, /64 networks of IPv6 as one: their owner has all of their addresses.

    `proxies` of the host each append the address they see to X-Forwarded-For; what stands before is anybody's word.
    """
    address = (scope.get("client") or ("unknown", 0))[0]
    if proxies:
        told = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        hops = [hop.strip() for hop in b",".join(told).decode("latin-1").split(",") if hop.strip()]
        address = hops[-proxies] if len(hops) >= proxies else address
    if with_port := PORT.fullmatch(address):
        address = with_port[1] or with_port[2]
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 6 and parsed.ipv4_mapped is not None:  # or all of IPv4 would be one network
        parsed = parsed.ipv4_mapped
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))
