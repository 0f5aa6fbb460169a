"""The check of requests to the local stack's ports: only programs of this machine and pages that it serves may ask.

Every page in a browser can send requests to loopback. Its origin is then in `Origin`. If its host name leads to
127.0.0.1 (DNS rebinding), it can also read the answers, and that name is in `Host`.
"""

from typing import Final
from urllib.parse import urlsplit

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def stranger(host: str, origin: str) -> str:
    """Return why a request with these headers is refused; empty for a request of this machine. Both may be empty."""
    if host and not _is_here(f"//{host}"):
        return f"the host is {host[:100]!a}, expected localhost: another name may be DNS rebinding by a page"
    if origin and not _is_here(origin):
        return f"the request comes from a page of {origin[:100]!a}, expected a program or a page of this machine"
    return ""


def _is_here(url: str) -> bool:
    try:
        name = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return name in _LOOPBACK or name.endswith(".localhost")
