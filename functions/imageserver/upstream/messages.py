"""Messages in a mirror's queue: one file to copy each.

    {"mirror": "ubuntu", "path": "server/…/lxd.tar.xz", "key": "images-ubuntu/…/lxd.tar.xz", "sha256": "9f1c…",
     "size_bytes": 464}

A message is only a request: its file may be here already, be copied by another worker, or be gone upstream.
"""

from typing import Annotated

import msgspec

from imageserver.upstream.mapping import UpstreamFile


class UnreadableMessage(ValueError):
    """A message that no release can read; it belongs in the dead-letter queue."""


class MirrorMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One file that is missing here; `mirror` names its configuration, the rest is as in UpstreamFile."""

    mirror: Annotated[str, msgspec.Meta(min_length=1)]
    path: Annotated[str, msgspec.Meta(min_length=1)]
    key: Annotated[str, msgspec.Meta(min_length=1)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    size_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    combined: tuple[tuple[str, str], ...] = ()
    signed_by: str = ""

    @property
    def file(self) -> UpstreamFile:
        """The file to copy."""
        return UpstreamFile(self.path, self.key, self.sha256, self.size_bytes, self.combined, self.signed_by)


def message_of(mirror: str, file: UpstreamFile) -> MirrorMessage:
    """Return the message that asks to copy a file of this mirror."""
    return MirrorMessage(mirror, file.path, file.key, file.sha256, file.size_bytes, file.combined, file.signed_by)


def encode(message: MirrorMessage) -> str:
    """Return the body of a message."""
    return msgspec.json.encode(message).decode()


def decode(body: str) -> MirrorMessage:
    """Read the body of a message. Raise UnreadableMessage."""
    try:
        return msgspec.json.decode(body, type=MirrorMessage)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise UnreadableMessage(f"expected a file to copy, found {body[:200]!r} ({error})") from error
