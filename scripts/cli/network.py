"""Proxies and certificate authorities of the network that a command runs in."""

from __future__ import annotations

import os
import re
import urllib.request
from collections.abc import MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import botocore.exceptions as aws

from imageserver.errors import UpstreamRefused
from imageserver.remote.connections import NO_TLS, speaks_no_tls

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
PROXY_LOGIN: Final = "the proxy wants a name and a password: https_proxy=http://USER:PASSWORD@HOST:PORT"
ENDPOINT: Final = "AWS_ENDPOINT_URL, or endpoint_url of the profile"
"""Where an operator names another S3 than that of AWS."""
PROXY_REMEDY: Final = "check https_proxy, or name this host in no_proxy"
FOREIGN: Final = (
    f"that is no answer of AWS: check the address of S3 and its scheme ({ENDPOINT}), and whether something between "
    "here and AWS answers in its place"
)
_CA_VARIABLES: Final = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
"""What boto3 reads; the first one wins."""
_OTHER_CA_VARIABLES: Final = ("SSL_CERT_FILE", "CURL_CA_BUNDLE")


class NetworkRefused(UpstreamRefused):
    """The network of this machine refuses, not the other server; the message says what to set."""


def reach_loopback_directly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep this machine's own addresses out of any proxy, for this process and those that it starts.

    A proxy would connect to its own loopback. Both spellings are set: programs differ in which one they read.
    """
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [host.strip() for host in given.split(",") if host.strip()]
    if hosts == ["*"]:  # every host, and only while it stands alone
        return
    hosts += [host for host in LOOPBACK if host not in hosts]
    environment["no_proxy"] = environment["NO_PROXY"] = ",".join(hosts)


def past_proxy() -> str:
    """Return the option with which a printed curl line goes past the proxy of this shell; empty if there is none."""
    proxies = urllib.request.getproxies_environment()
    return "--noproxy '*' " if any(proxies.get(scheme) for scheme in ("http", "https", "all")) else ""


def refused_by_proxy(message: str) -> str:
    """Return what to do about a proxy that refuses. Quote nothing of its `message`, which may name its address."""
    return PROXY_LOGIN if "407" in message else f"the proxy refuses or is not there; {PROXY_REMEDY}"


def remedy(error: BaseException) -> str:
    """Return what to do about an error caused by the network or by the address of S3; "" for any other."""
    if isinstance(error, aws.ProxyConnectionError):
        if "407" in str(error.kwargs.get("error")):
            return PROXY_LOGIN
        return PROXY_REMEDY
    if isinstance(error, aws.SSLError):
        if speaks_no_tls(error):
            return f"{NO_TLS} ({ENDPOINT})"
        if re.search("not yet valid|has expired", str(error)):
            return f"look at the clock of this machine ({datetime.now(UTC):%Y-%m-%dT%H:%MZ}) first"
        named = [(name, file) for name in (*_CA_VARIABLES, *_OTHER_CA_VARIABLES) if (file := os.environ.get(name))]
        for name, file in named[:1]:
            if not Path(file).exists():
                return f"{name} is {file}, which is not there"
            if name in _CA_VARIABLES:
                return f"{name} is {file}, which does not hold the authority of this network's certificates"
            return f"boto3 does not read {name}; if the authority is in it: AWS_CA_BUNDLE={file}"
        return "if your network has its own certificate authority, name its PEM file in AWS_CA_BUNDLE"
    return FOREIGN if isinstance(error, aws.ClientError) and _is_foreign(error) else ""


def _is_foreign(error: aws.ClientError) -> bool:
    """Return whether a status 400 came without anything of AWS in it, as a port that wants TLS answers."""
    about = error.response.get("ResponseMetadata", {})
    has_code = error.response.get("Error", {}).get("Code") not in (None, "", "400")
    return about.get("HTTPStatusCode") == 400 and not has_code and not about.get("RequestId")
