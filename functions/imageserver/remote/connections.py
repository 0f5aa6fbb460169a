"""Connections to the hosts of one mirror, each to a checked address.

This module resolves a name, checks the addresses and connects to one of them, so a name that changes in between (DNS
rebinding) leads nowhere else. TLS is verified against the name. Redirects are followed here, and each hop is checked
like the first address. Proxies from the environment are not used, because they would resolve the name themselves. An
operator's own machine may use them: scripts/cli/admin/proxied.py.
"""

import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import urllib3
from botocore.httpsession import get_cert_path
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from imageserver.errors import UpstreamRefused, UpstreamUnavailable
from imageserver.upstream.addresses import is_public, place_of, redirected

MOST_REDIRECTS: Final = 5
RESOLVED_S: Final = 60.0
"""How long the addresses of a name are used before it is resolved and checked again."""
TIMEOUT: Final = urllib3.Timeout(connect=5, read=20)

NO_TLS: Final = "what answers there does not speak TLS: correct the scheme of the address"
WANTS_TLS: Final = "that port wants TLS: correct the scheme of the address"
_NO_TLS: Final = re.compile("wrong.version.number|packet.length.too.long|unknown.protocol", re.IGNORECASE)
"""Matches what the versions of OpenSSL say of an answer in another protocol."""
_WANTS_TLS: Final = re.compile(
    rb"plain HTTP request was sent to HTTPS port|HTTP request to an HTTPS server|plain HTTP to an SSL-enabled",
)
"""Matches what nginx, Go and Apache answer to a request without TLS."""

Resolve = Callable[..., Any]
"""Has the parameters of socket.getaddrinfo."""


def default_trust() -> ssl.SSLContext:
    """Return the certificate authorities that AWS clients trust: those of an environment variable, or botocore's."""
    named = (os.environ.get(name) for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"))
    return _trusting(next(filter(None, named), None) or get_cert_path(True))


def speaks_no_tls(error: BaseException) -> bool:
    """Return whether a connection failed because what answered does not speak TLS. A later try fails too."""
    return bool(_NO_TLS.search(str(error)))


def wants_tls(body: bytes) -> bool:
    """Return whether an answer with status 400 refuses a request because it came without TLS."""
    return bool(_WANTS_TLS.search(body))


@cache
def _trusting(cafile: str) -> ssl.SSLContext:
    """Return a context that trusts these authorities. Made once: loading them takes tens of milliseconds."""
    return ssl.create_default_context(cafile=cafile)


@dataclass(slots=True)
class _Site:
    """One host and port: its checked addresses, until when they are valid, and the connections to each."""

    addresses: list[str]
    until: float
    pools: dict[str, urllib3.HTTPConnectionPool] = field(default_factory=dict)


class Connections:
    """Connections to some hosts, kept alive and shared by threads. Close them when the work is done."""

    def __init__(
        self,
        hosts: Collection[str],
        allow_private: bool,
        most: int,
        trust: ssl.SSLContext | None = None,
        resolve: Resolve = socket.getaddrinfo,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hosts, self._allow_private, self._most = frozenset(hosts), allow_private, most
        self._trust, self._resolve, self._clock = trust, resolve, clock
        self._sites: dict[tuple[str, str, int], _Site] = {}
        self._lock = threading.Lock()

    def get(self, url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """Send a GET, follow redirects, and return the answer with its body unread. The caller closes it.

        Raise UpstreamRefused for a host or an address that is not allowed, UpstreamUnavailable for a name that does not
        resolve, and urllib3's HTTPError for a connection that fails.
        """
        for _ in range(MOST_REDIRECTS + 1):
            response = self.ask(url, headers)
            location = response.get_redirect_location()
            if not location:
                return response
            response.close()
            url = redirected(url, location, self._hosts)
        raise UpstreamRefused(f"{place_of(url)[1]} redirects more than {MOST_REDIRECTS} times")

    def close(self) -> None:
        """Close the connections that are idle."""
        with self._lock:
            for site in self._sites.values():
                for pool in site.pools.values():
                    pool.close()
            self._sites.clear()

    def ask(self, url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """Send one request to the first address of the host that accepts a connection. The answer may be a redirect."""
        scheme, host, port, target = place_of(url)
        site = self._site(scheme, host, port)
        name = f"[{host}]" if ":" in host else host if host.isascii() else host.encode("idna").decode()
        named = {**headers, "Host": name if port == {"http": 80, "https": 443}[scheme] else f"{name}:{port}"}
        for address in list(site.addresses):
            pool = self._pool(site, address, scheme, host, port)
            try:
                return pool.urlopen(
                    "GET", target, headers=named, timeout=TIMEOUT,
                    retries=False, redirect=False, assert_same_host=False, preload_content=False,
                )  # fmt: skip
            except (NewConnectionError, ConnectTimeoutError) as error:
                refused = error
                with self._lock:
                    if address in site.addresses:  # the next request begins with one that accepts connections
                        site.addresses.remove(address)
                        site.addresses.append(address)
        raise refused

    def _site(self, scheme: str, host: str, port: int) -> _Site:
        """Return the addresses of a host, keeping the connections to addresses that it still has."""
        key = (scheme, host, port)
        with self._lock:
            found = self._sites.get(key)
            if found and self._clock() < found.until:
                return found
        addresses = self.addresses(host, port)
        with self._lock:
            kept = self._sites.get(key, _Site([], 0.0)).pools
            pools = {address: kept[address] for address in addresses if address in kept}
            self._sites[key] = _Site(addresses, self._clock() + RESOLVED_S, pools)
            return self._sites[key]

    def addresses(self, host: str, port: int) -> list[str]:
        """Resolve a name and check all of its addresses. Raise UpstreamRefused, UpstreamUnavailable.

        One forbidden address is enough to refuse the name, because any of the addresses may be used.
        """
        try:
            found = self._resolve(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise UpstreamUnavailable(f"the name {host} cannot be resolved: {error}") from error
        addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
        for address in addresses:
            if not self._allow_private and not is_public(address):
                raise UpstreamRefused(
                    f"{host} has the address {address}, which is not on the public internet; "
                    "if that is intended, allow private addresses in the mirror's configuration"
                )
        return addresses

    def _pool(self, site: _Site, address: str, scheme: str, host: str, port: int) -> urllib3.HTTPConnectionPool:
        """Return the connections to one address of a site."""
        with self._lock:
            if address not in site.pools and scheme == "http":
                site.pools[address] = urllib3.HTTPConnectionPool(address, port, maxsize=self._most)
            elif address not in site.pools:
                self._trust = self._trust or default_trust()
                site.pools[address] = urllib3.HTTPSConnectionPool(
                    address, port, maxsize=self._most, ssl_context=self._trust, server_hostname=host
                )
            return site.pools[address]
