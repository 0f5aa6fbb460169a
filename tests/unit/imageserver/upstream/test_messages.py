"""A message about a file to copy is read as it was written, or not at all."""

from __future__ import annotations

import pytest

from imageserver.upstream.mapping import UpstreamFile
from imageserver.upstream.messages import UnreadableMessage, decode, encode, message_of

FILE = UpstreamFile("server/a/lxd.tar.xz", "images/ubuntu/noble/amd64/default/20261123/lxd.tar.xz", "9f" * 32, 464)


def test_a_message_is_read_as_it_was_written() -> None:
    message = decode(encode(message_of("noble", FILE)))
    assert (message.mirror, message.file) == ("noble", FILE)


def test_a_size_may_be_unknown() -> None:
    file = UpstreamFile(FILE.path, FILE.key, FILE.sha256, 0)
    assert decode(encode(message_of("noble", file))).file == file


@pytest.mark.parametrize(
    "body",
    ["", "{}", "[]", "[" * 100_000, '{"changed": "images/"}', "\ud800",
     encode(message_of("noble", FILE)).replace("9f", "9F"),
     encode(message_of("noble", FILE)).replace("464", "-464"),
     encode(message_of("", FILE)),
     encode(message_of("noble", FILE)).replace('"mirror"', '"extra":1,"mirror"')],
)  # fmt: skip
def test_anything_else_is_not_read(body: str) -> None:
    with pytest.raises(UnreadableMessage, match="expected a file to copy"):
        decode(body)
