"""The paths that operators type: with or without the stream in front, as uploads and `Publishers` take them."""

from typing import Any, Final

import click

from imageserver.errors import InvalidUpload
from imageserver.format.keys import Target, parse_target

PRODUCT_PARTS: Final = 5
FILE_PARTS: Final = 7
TAKES: Final = (
    "expected a product (images/<os>/<release>/<arch>/<variant>), a version (…/<version>) or a file "
    "(…/<version>/<file>), each with or without its stream; `admin list` takes any folder"
)


def with_stream(path: str) -> str:
    """`tiny/1` is `images/tiny/1`; without slashes around it. An empty path stays empty: it means everything."""
    path = path.strip("/")
    first = path.partition("/")[0]
    return path if not path or first == "images" or first.startswith("images-") else f"images/{path}"


def target(path: str) -> Target:
    """The product, version or file that a path names; InvalidUpload says what is taken, or which part is wrong."""
    path = with_stream(path)
    parts = path.count("/") + 1
    if not PRODUCT_PARTS <= parts <= FILE_PARTS:
        raise InvalidUpload(f"{path!a} has {parts} parts between slashes, {TAKES}")
    return parse_target(path)


def _below(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    return with_stream(value)


def below(function: Any) -> Any:
    """An argument that may be any folder, or be left out."""
    return click.argument("below", default="", metavar="[PATH]", callback=_below)(function)
