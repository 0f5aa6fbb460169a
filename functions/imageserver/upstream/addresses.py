"""Decide which addresses another server's documents and redirects may lead to. Pure.

The documents of another server choose paths, and its answers choose the targets of redirects. Neither may make this
server send a request into its own network, or to a host that nobody configured.
"""

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from imageserver.errors import UpstreamRefused

_PORTS: Final = {"http": 80, "https": 443}
_SAFE: Final = "/%$&+,:;=@"
"""Characters of a path that Go's net/url, and so LXD and Incus, leave as they are."""
_STRAY_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_UNICAST: Final = IPv6Network("2000::/3")
"""All of IPv6 that the internet routes."""


def joined(address: str, path: str) -> str:
    """Return the URL of a path below a server's address, as LXD and Incus join them.

    The path is below the address's path even if it starts with a slash. Escapes stay; other characters that a URL
    cannot hold are escaped. Raise UpstreamRefused for a path that would lead elsewhere.
    """
    below = path.lstrip("/")
    for segment in below.split("/"):
        plain = unquote(segment)
        if plain in ("", ".", "..") or "/" in plain or "\\" in plain or not plain.isprintable():
            raise UpstreamRefused(f"{path[:200]!r} is not a path below upstream's address; upstream's catalog is wrong")
    base = urlsplit(address)
    whole = quote(_STRAY_PERCENT.sub("%25", f"{base.path.rstrip('/')}/{below}"), safe=_SAFE)
    return base._replace(path=whole, query="", fragment="").geturl()


def redirected(url: str, location: str, hosts: Collection[str]) -> str:
    """Return where a redirect of `url` leads. Raise UpstreamRefused if it is not one of `hosts`, or less secure.

    `hosts` are names without a port. The message names only a host, because the whole address may hold a token.
    """
    try:
        target = urlsplit(urljoin(url, location))
        host, _ = target.hostname or "", target.port
    except ValueError as error:
        raise UpstreamRefused(f"{host_of(url)} redirects to an address that cannot be read") from error
    if target.scheme not in _PORTS or not host or "@" in target.netloc:
        raise UpstreamRefused(
            f"{host_of(url)} redirects to an unusable address, expected http or https, a host and no user"
        )
    if host not in hosts:
        raise UpstreamRefused(
            f"{host_of(url)} redirects to {host[:200]!r}, expected {' or '.join(sorted(hosts))}; "
            "name that host in the mirror's configuration if it is right"
        )
    if target.scheme == "http" and urlsplit(url).scheme == "https":
        raise UpstreamRefused(f"{host_of(url)} redirects from https to http, expected https")
    return target._replace(fragment="").geturl()


def place_of(url: str) -> tuple[str, str, int, str]:
    """Return scheme, host, port and the target of a request for a URL."""
    split: SplitResult = urlsplit(url)
    target = f"{split.path or '/'}{'?' if split.query else ''}{split.query}"
    return split.scheme, split.hostname or "", split.port or _PORTS[split.scheme], target


def host_of(url: str) -> str:
    """Return the host of a URL, for messages: the rest may hold a token."""
    return urlsplit(url).hostname or "upstream"


def is_public(address: str) -> bool:
    """Return whether an IP address, as a resolver gives it, belongs to the public internet.

    An IPv6 address that carries an IPv4 address counts as both: it leads to the IPv4 one.
    """
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return all(map(_is_public, (found, *_carried(found))))


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast
    if address.ipv4_mapped or address in _NAT64:
        return True  # the IPv4 address that it carries decides
    return address.is_global and address in _UNICAST


def _carried(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """Return the IPv4 addresses inside an IPv6 one: mapped, 6to4, Teredo, NAT64."""
    if isinstance(address, IPv4Address):
        return []
    carried = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        carried.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [one for one in carried if one is not None]
