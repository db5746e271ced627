"""Which hosts are private, and the check that no redirect leads from a public server to one.

The server that the user named may have any address: a mirror in the company's network is named by
HF_ENDPOINT. Servers that it redirects to may be private only where it is private itself. A name is
looked up before the request, and the address of the connection is checked again before anything of
the answer is read, since a name server may answer differently the second time.
"""

import ipaddress
import socket
from urllib.request import getproxies, proxy_bypass

from huggingface_hub.utils import httpx

from huref.errors import NetworkError

NAMED = "huref.named"  # extension of a request: the host that the user named, for its redirects
PORTAL = "check HF_ENDPOINT, and whether the network wants you to sign in first"
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_private(host: str) -> bool:
    """Whether all addresses of a host are this machine's or those of private networks."""
    found = _addresses_of(host)
    return bool(found) and all(map(is_private_address, found))


def may_be_private(host: str) -> bool:
    """Whether one of a host's addresses is this machine's or that of a private network."""
    return any(map(is_private_address, _addresses_of(host)))


def is_private_address(address: Address) -> bool:
    """Whether an address is not one of the public internet, or stands for such an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _embedded(address)
        if inner is not None:
            return is_private_address(inner)
        if address.is_site_local:
            return True
    return not address.is_global or address.is_multicast or address.is_reserved


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a router or the system takes an IPv6 address for."""
    if address in NAT64 or (int(address) >> 32 == 0 and int(address) > 1):  # or IPv4-compatible
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]


def _addresses_of(host: str) -> list[Address]:
    host = host.strip("[]")
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):  # as behind a proxy that resolves names itself
        found = {host}
    return [address for text in found if (address := _parse(text)) is not None]


def _parse(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def check_request(request: "httpx.Request") -> None:
    """Refuse a request that a redirect from a public server to a private one asks for.

    Raises:
        NetworkError: it is one.
    """
    host = _host(request)
    named = request.extensions.setdefault(NAMED, host)
    if host != named and may_be_private(host) and not is_private(named):
        raise _refusal(host)


def check_answer(response: "httpx.Response") -> None:
    """Refuse an answer that comes from a private server after a redirect from a public one.

    Raises:
        NetworkError: it does.
    """
    host = _host(response.request)
    named = response.request.extensions.get(NAMED, host)
    if host == named or _is_proxied(response.request):
        return
    stream = response.extensions.get("network_stream")
    peer = stream.get_extra_info("server_addr") if stream is not None else None
    address = _parse(str(peer[0])) if isinstance(peer, tuple) and peer else None
    if address is not None and is_private_address(address) and not is_private(named):
        raise _refusal(f"{host} at {address}")


def _host(request: "httpx.Request") -> str:
    return request.url.raw_host.decode("ascii").lower()


def _is_proxied(request: "httpx.Request") -> bool:
    """Whether the connection is to a proxy, which the user chose and which may be private."""
    proxies = getproxies()
    is_set = bool(proxies.get(request.url.scheme) or proxies.get("all"))
    return is_set and not proxy_bypass(request.url.host)


def _refusal(host: str) -> NetworkError:
    return NetworkError(
        f"it is redirected to {host}, an address of a private network, which is not followed",
        advice=PORTAL,
    )
