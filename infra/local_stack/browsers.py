"""Who may ask the ports of the local stack: programs of this machine, and pages that it serves itself.

Every page in a browser can send requests to loopback. It then names itself in `Origin`; with a name of its own that
leads to 127.0.0.1 (DNS rebinding) it also reads the answers, and that name is in `Host`.
"""

from typing import Final
from urllib.parse import urlsplit

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def stranger(host: str, origin: str) -> str:
    """Return why a request with these headers is refused; empty for one of this machine. Both may be empty."""
    if host and not _is_here(f"//{host}"):
        return f"the host is {host[:100]!a}, expected localhost: another name for this port is a page's trick"
    if origin and not _is_here(origin):
        return f"the request comes from a page of {origin[:100]!a}, expected a program or a page of this machine"
    return ""


def _is_here(url: str) -> bool:
    try:
        name = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return name in _LOOPBACK or name.endswith(".localhost")
