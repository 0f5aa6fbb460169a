"""Requests and answers of the API. The OpenAPI description is made from these (imageserver.api.openapi)."""

from typing import Annotated, Literal

import msgspec

from imageserver.versions.records import Reason
from imageserver.versions.state import State
from imageserver.views.view import Promotion

Headers = Annotated[
    dict[str, str],
    msgspec.Meta(
        description="Send each of them as it is: S3 answers 403 to a request without a header that its URL signs."
    ),
]
Size = Annotated[int, msgspec.Meta(ge=0, description="Bytes, written without a fraction.", examples=[734003200])]
Sha256 = Annotated[
    str, msgspec.Meta(description="SHA-256 of the file, 64 hex digits.", pattern="^[0-9A-Fa-f]{64}$", max_length=64)
]
UploadId = Annotated[
    str,
    msgspec.Meta(description="`upload_id` of an earlier answer: what arrived then is not sent again.", max_length=1024),
]
InParts = Annotated[
    bool, msgspec.Meta(description="false: one PUT up to 5 GiB; true: in parts. By default in parts above 64 MiB.")
]
_VersionPath = Annotated[
    str,
    msgspec.Meta(
        description="images/<os>/<release>/<arch>/<variant>/<version>",
        examples=["images/ubuntu/noble/amd64/default/20261123_1000"],
    ),
]


class FileRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file to upload."""

    path: Annotated[
        str,
        msgspec.Meta(
            description="images/<os>/<release>/<arch>/<variant>/<version>/<file>",
            examples=["images/ubuntu/noble/amd64/default/20261123_1000/rootfs.squashfs"],
        ),
    ]
    size: Size
    sha256: Sha256 | None = None
    multipart: InParts | None = None
    upload_id: UploadId | None = None


class BatchFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of a version."""

    file: Annotated[str, msgspec.Meta(description="Its name in the version's folder.", examples=["rootfs.squashfs"])]
    size: Size
    sha256: Sha256 | None = None
    multipart: InParts | None = None
    upload_id: UploadId | None = None


class BatchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All files of a version. Nothing is signed unless all of them can be."""

    version: _VersionPath
    files: Annotated[list[BatchFile], msgspec.Meta(min_length=1, max_length=50)]


class RestoreRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Takes a withdrawal back."""

    withdrawn: Literal[False]


_Name = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,62}$", max_length=63)]
_Check = Annotated[_Name, msgspec.Meta(description="The name of a check.", examples=["boots"])]
_Fingerprint = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)]


class PromotionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Points a channel to a version. The same request again changes nothing."""

    path: _VersionPath
    channel: Annotated[_Name, msgspec.Meta(description="The channel that shows it.", examples=["stable"])]
    require: Annotated[
        list[_Check],
        msgspec.Meta(description="Checks that must have passed, beside those of the channel.", max_length=20),
    ] = []
    back: Annotated[
        bool, msgspec.Meta(description="true: the channel shows this version, and is to show the one before it.")
    ] = False


class CheckRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The result of a check of a version. It counts for the bytes that the version has now."""

    path: _VersionPath
    check: _Check
    passed: bool
    fingerprints: Annotated[
        list[_Fingerprint],
        msgspec.Meta(description="The images that were tested, as clients name them.", min_length=1, max_length=20),
    ]
    url: Annotated[str, msgspec.Meta(description="Where its run can be read.", max_length=1000)] = ""


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """A request to send exactly as it is: method, URL and headers."""

    method: str
    url: str
    headers: Headers


class Single(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="single"):
    """Send the file in one request."""

    path: str
    size: int
    method: Literal["PUT"] = "PUT"
    url: str
    headers: Headers
    expires_at: str


class PartPlan(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`size` bytes from `offset` on: PUT them to `url`. A part that has arrived already has `etag` and no URL."""

    number: int
    offset: int
    size: int
    url: str = ""
    etag: str = ""


class Multipart(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="multipart"):
    """Send the parts in any order, then `complete` with an XML list of part numbers and the ETags of the answers."""

    path: str
    size: int
    upload_id: str
    part_size: int
    parts: list[PartPlan]
    complete: Signed
    abort: Signed
    expires_at: str


class Present(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="present"):
    """The file is already there, with the declared size and, if both digests are known, the declared digest."""

    path: str
    size: int
    sha256: str


class BatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One entry for each file, in the order of the request."""

    version: str
    uploads: list[Single | Multipart | Present]


class FileStatus(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One file. `sha256` is empty until it has been read; `uploaded_at`, in ISO 8601 and UTC, until it is known."""

    size: int
    sha256: str = ""
    uploaded_at: str = ""


class CheckStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The last result that a check posted: when (ISO 8601, UTC), and by whom.

    `counts`: the result is about the bytes that the version has now.
    """

    passed: bool
    at: str
    by: str
    url: str
    fingerprints: list[str]
    counts: bool


class VersionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where a version is in its lifecycle.

    `fingerprints` are those that clients see, and `clients` the kinds of client that see it (`lxd`, `incus`). `aliases`
    lead to this version; they are empty beside a newer version of the same kind. All are empty unless it is listed.
    `checks` and `channels` (the promotions of the version that a channel remembers) are only for callers who may post
    results or promote it.
    """

    path: str
    status: State
    reasons: list[Reason] = []
    files: dict[str, FileStatus] = {}
    aliases: list[str] = []
    fingerprints: list[str] = []
    clients: list[str] = []
    delete_after: str = ""
    checks: dict[str, CheckStatus] | msgspec.UnsetType = msgspec.UNSET
    channels: dict[str, list[Promotion]] | msgspec.UnsetType = msgspec.UNSET


class ProductStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The versions of a product that clients see, in their order: the newest first."""

    path: str
    versions: list[str]


class MovedChannel(msgspec.Struct, frozen=True, kw_only=True):
    """A channel that now shows another version of a product; `after` is empty if it no longer shows any."""

    channel: str
    product: str
    before: str
    after: str


class Withdrawn(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a withdrawal: what is off the list, until when it can be restored, and what was off the list before.

    `channels` are those that showed it and now show another version or none; absent if there are none.
    """

    path: str
    versions: list[str]
    files: list[str]
    delete_after: str
    channels: list[MovedChannel] | msgspec.UnsetType = msgspec.UNSET


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a restore: what is back on the list."""

    path: str
    versions: list[str]
    files: list[str]


class Promoted(msgspec.Struct, frozen=True, kw_only=True):
    """The version of a product that a channel showed before and shows now; empty for none.

    Clients see the change in a moment.
    """

    channel: str
    product: str
    before: str
    after: str


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """The result as it is stored."""

    path: str
    check: str
    result: CheckStatus
