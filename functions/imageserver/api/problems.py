"""Refusals of the HTTP API: problem documents (RFC 9457), or the same in lines of text for a shell."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from imageserver.errors import InvalidUpload

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem; `name` ends its type URI and is stable, `title` is the same for all of that kind."""

    name: str
    status: int
    title: str

    @property
    def uri(self) -> str:
        """The `type` of its documents. A name, not an address: there is nothing to fetch."""
        return f"urn:simplestreams:problem:{self.name}"


BAD_REQUEST: Final = Kind("bad-request", 400, "The request is malformed")
FORBIDDEN: Final = Kind("forbidden", 403, "The caller may not do this")
NOT_FOUND: Final = Kind("not-found", 404, "There is nothing of that name")
EXISTS: Final = Kind("exists", 409, "The file exists already")
WITHDRAWN: Final = Kind("withdrawn", 409, "The version is withdrawn")
NOT_PASSED: Final = Kind("not-passed", 409, "The version has not passed a check")
OTHER_STATE: Final = Kind("other-state", 409, "The version or the channel is in another state")
TOO_LARGE: Final = Kind("body-too-large", 413, "The request is too large")
INVALID: Final = Kind("invalid", 422, "The path, a name or a size is invalid")
LIMIT: Final = Kind("limit", 422, "The version, the product or the publisher has reached a limit")
TOO_MANY: Final = Kind("too-many-requests", 429, "The publisher makes too many requests")
BROKEN: Final = Kind("broken", 500, "The server is at fault")
BUSY: Final = Kind("busy", 503, "Try again in a moment")

KINDS: Final = (
    BAD_REQUEST, FORBIDDEN, NOT_FOUND, EXISTS, WITHDRAWN, NOT_PASSED, OTHER_STATE,
    TOO_LARGE, INVALID, LIMIT, TOO_MANY, BROKEN, BUSY,
)  # fmt: skip


class Problem(Exception):
    """Ends a request. `detail` is a sentence; `extra` are further members of the document, JSON values."""

    def __init__(self, kind: Kind, detail: str, **extra: object) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.extra = extra

    def document(self) -> dict[str, object]:
        """Return the problem document."""
        about = {"type": self.kind.uri, "title": self.kind.title, "status": self.kind.status}
        return {**about, "detail": self.detail, **self.extra}

    def text(self) -> str:
        """Return `problem <kind>`, then one `detail <sentence>` line for each sentence."""
        refusals = self.extra.get("refusals")
        sentences = [r["detail"] for r in refusals] if isinstance(refusals, list) else [self.detail]
        return "".join([f"problem {self.kind.name}\n", *(f"detail {one_line(s)}\n" for s in sentences)])


def parsed(parse: Callable[[str], _R], path: str) -> _R:
    """Return what `parse` makes of a path. Raise Problem if it refuses it with InvalidUpload."""
    try:
        return parse(path)
    except InvalidUpload as refusal:
        raise Problem(INVALID, str(refusal)) from refusal


def one_line(text: str) -> str:
    """Return a sentence without the line breaks that a parser's message may bring along."""
    return " ".join(text.split())
