"""Another image server, read from an operator's machine: through the network's proxy, with its authorities.

The functions never use a proxy. An operator's commands do, with the same rules for hosts, redirects and TLS. Only the
proxy can apply one rule: it resolves names, so this machine cannot tell whether a name leads to a private address.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Collection, Mapping
from ipaddress import ip_address
from typing import Final
from urllib.parse import unquote, urlsplit

import requests.utils
import urllib3
from urllib3.exceptions import ProxyError, ProxySchemeUnknown
from urllib3.util import make_headers

from cli import network
from cli.network import NetworkRefused
from imageserver.remote.connections import TIMEOUT, Connections, default_trust
from imageserver.upstream.addresses import place_of

CA_VARIABLES: Final = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables that may name a PEM file of authorities; the first one that is set wins."""


def trust(environment: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """Return the authorities that a variable names, else the usual ones. Raise NetworkRefused if they are not there."""
    named = next(((name, file) for name in CA_VARIABLES if (file := environment.get(name))), None)
    if named is None:
        return default_trust()
    try:
        return ssl.create_default_context(cafile=named[1])
    except OSError as error:  # including ssl's own errors
        raise NetworkRefused(f"{named[0]} is {named[1]}, which is not a readable certificate file") from error


def proxy_of(url: str) -> str:
    """Return the address of the environment's proxy for a URL; empty if there is none, or for this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost") or (_is_address(host) and ip_address(host).is_loopback):
        return ""
    found = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    if not found:
        return ""
    return found if "://" in found else f"http://{found}"  # curl takes both forms too


class ProxiedConnections(Connections):
    """Connections to some hosts, each through the environment's proxy for it. They must be closed."""

    def __init__(self, hosts: Collection[str], allow_private: bool, most: int, trusted: ssl.SSLContext) -> None:
        super().__init__(hosts, allow_private, most, trusted)
        self._most_connections, self._trusted = most, trusted
        self._proxies: dict[str, urllib3.ProxyManager] = {}

    def ask(self, url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """Send one request. Raise NetworkRefused, which says what to set, if the proxy refuses it."""
        proxy = proxy_of(url)
        if not proxy:
            return super().ask(url, headers)
        _, host, port, _ = place_of(url)
        if _is_address(host):
            self.addresses(host, port)
        try:
            response = self._manager(proxy).urlopen(
                "GET", url, headers=dict(headers), timeout=TIMEOUT, retries=False, redirect=False, preload_content=False
            )
        except ProxyError as error:
            raise NetworkRefused(f"{host} is not reached: {network.refused_by_proxy(str(error))}") from error
        if response.status == requests.codes.proxy_authentication_required:
            response.close()
            raise NetworkRefused(f"{host} is not reached: {network.PROXY_LOGIN}")
        return response

    def close(self) -> None:
        for manager in self._proxies.values():
            manager.clear()
        super().close()

    def _manager(self, proxy: str) -> urllib3.ProxyManager:
        if proxy in self._proxies:
            return self._proxies[proxy]
        address = urlsplit(proxy)
        login = f"{unquote(address.username)}:{unquote(address.password or '')}" if address.username else None
        plain = address._replace(netloc=address.netloc.rpartition("@")[2]).geturl()  # no login in any message
        try:
            self._proxies[proxy] = urllib3.ProxyManager(
                plain, proxy_headers=make_headers(proxy_basic_auth=login), maxsize=self._most_connections,
                ssl_context=self._trusted, proxy_ssl_context=self._trusted,
            )  # fmt: skip
        except ProxySchemeUnknown as error:
            raise NetworkRefused(
                f"the proxy is one of {address.scheme}://, expected http:// or https://; {network.PROXY_REMEDY}"
            ) from error
        return self._proxies[proxy]


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
