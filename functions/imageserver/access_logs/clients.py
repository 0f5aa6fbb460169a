"""User-Agent -> the kind of client and, for LXD and Incus, its version. Nothing else of the header is kept."""

import re
from typing import Final, NamedTuple


class Client(NamedTuple):
    """A kind of client; `version` is empty except for LXD and Incus."""

    kind: str
    version: str = ""


UNKNOWN: Final = Client("unknown")
OTHER: Final = Client("other")

# `LXD 5.21.3 LTS (Linux; x86_64; 6.8.0; Ubuntu; 24.04) (zfs 2.2.2)`, `Incus 6.0.4 (Linux; aarch64; …)`; both the daemon
# and the command line send it.
_DAEMON: Final = re.compile(r"(LXD|Incus) ([0-9]{1,3}(?:\.[0-9]{1,3}){0,2})(?![0-9.])")
_KINDS: Final = (
    ("serverless-simplestreams-mirror", "mirror"),
    ("serverless-simplestreams-import", "import"),
    ("simplestreams-smoke", "smoke"),
    ("curl/", "curl"),
    ("Wget/", "wget"),
    ("Mozilla/", "browser"),
)


def client_of(user_agent: str) -> Client:
    """Return the client that sent this User-Agent."""
    if user_agent in ("", "-"):
        return UNKNOWN
    if match := _DAEMON.match(user_agent):
        return Client(match[1].lower(), match[2])
    return next((Client(kind) for start, kind in _KINDS if user_agent.startswith(start)), OTHER)
