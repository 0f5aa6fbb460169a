"""Have CloudFront invalidate paths whose bytes were replaced or deleted.

Images are cached for a year. A path that has held other bytes is invalidated before the catalog lists it with its new
digest, and the catalog waits until the invalidation is complete: no client ever gets old bytes under a new digest. The
path of a deleted file is invalidated too, so the edge stops serving it.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from imageserver.errors import InvalidationRefused, SimplestreamsError, StorageDenied, StorageUnavailable
from imageserver.format.wording import counted

if TYPE_CHECKING:
    from mypy_boto3_cloudfront import CloudFrontClient
    from mypy_boto3_cloudfront.type_defs import InvalidationBatchTypeDef, InvalidationTypeDef

_ASK_EVERY_S: Final = 2
MOST_FILES: Final = 1000
"""Paths of single files in one request. CloudFront allows 3,000 in progress, over all requests."""
MOST_WILDCARDS: Final = 5
"""Paths that end in `*` in one request. CloudFront allows 15 in progress, counted apart from single files."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9._:/-]*")
"""The start of a key that has exactly one spelling in an invalidation path.

`~` is not in it: CloudFront refuses it raw and does not match `%7E` (aws/aws-sdk-js-v3 issue 4042). Nor is any other
character that a stray file in a version's folder may have: the path would need the escape that the client sent, which
is unknown here, and `*` and `%` have special meanings. Every client sends `:` as it is.
"""
_TOO_MANY: Final = "TooManyInvalidationsInProgress"
_INVALID: Final = frozenset({"InvalidArgument", "BatchTooLarge"})
_DENIED: Final = frozenset({"AccessDenied", "NoSuchDistribution"})

Invalidate = Callable[[Sequence[str]], None]


def no_invalidation(_keys: Sequence[str]) -> None:
    """Do nothing, for a server without an edge."""


def everything_below(prefix: str) -> str:
    """Return the path of all keys with a prefix: `/images/a/*` for `images/a/`, `/images/b*` for `images/b~c/`."""
    plain = _PLAIN.match(prefix)
    return f"/{plain[0] if plain else ''}*"


def invalidation_paths(keys: Iterable[str]) -> list[str]:
    """Return the paths that invalidate these keys, sorted, none within another.

    Wider paths replace them where there would be too many. A key that a path cannot spell is invalidated by a wildcard,
    which takes the place of everything from the first special character on.
    """
    wanted = list(keys)
    paths = _without_covered({f"/{key}" if _PLAIN.fullmatch(key) else everything_below(key) for key in wanted})
    wildcards = sum(path.endswith("*") for path in paths)
    if wildcards <= MOST_WILDCARDS and len(paths) - wildcards <= MOST_FILES:
        return paths
    return _whole_streams(wanted)


def _whole_streams(keys: Iterable[str]) -> list[str]:
    streams = {key.split("/")[0] for key in keys}
    return sorted(everything_below(f"{s}/") for s in streams) if len(streams) <= MOST_WILDCARDS else ["/images*"]


def _without_covered(paths: set[str]) -> list[str]:
    """Return the paths without those that a wildcard among them covers; they sort directly after it."""
    kept: list[str] = []
    covered = "*"  # as no path begins
    for path in sorted(paths, key=lambda path: (path.removesuffix("*"), not path.endswith("*"))):
        if not path.startswith(covered):
            kept.append(path)
            covered = path[:-1] if path.endswith("*") else covered
    return sorted(kept)


def invalidate(
    client: CloudFrontClient,
    distribution: str,
    keys: Sequence[str],
    pause: Callable[[float], object],
    patience_s: float,
) -> None:
    """Invalidate the paths of these objects and wait for completion: usually 5 to 15 s, at worst minutes.

    Errors as of `request_invalidation`, and StorageUnavailable when CloudFront is not done within `patience_s`.
    """
    asked, waited = request_invalidation(client, distribution, keys, pause, patience_s), 0.0
    while asked["Status"] != "Completed":
        if waited >= patience_s:
            raise StorageUnavailable(f"the edge has not invalidated {counted(len(keys), 'path')} within {waited:.0f} s")
        pause(_ASK_EVERY_S)
        waited += _ASK_EVERY_S
        try:
            asked = client.get_invalidation(DistributionId=distribution, Id=asked["Id"])["Invalidation"]
        except (ClientError, BotoCoreError) as error:
            raise _failure(error, f"the edge does not say whether it has invalidated {_shown(keys)}") from error


def request_invalidation(
    client: CloudFrontClient,
    distribution: str,
    keys: Sequence[str],
    pause: Callable[[float], object],
    patience_s: float,
) -> InvalidationTypeDef:
    """Have the paths of these objects invalidated, without waiting for it.

    CloudFront limits the invalidations in progress; this waits up to `patience_s` for a free place. No publish fails
    because CloudFront calls a path invalid: the whole streams of those paths are invalidated instead, because their
    names are plain.

    Raises StorageUnavailable when a later try may work, StorageDenied when CloudFront denies access to the
    distribution, and InvalidationRefused when it calls the names of whole streams invalid too.
    """
    paths, wider = invalidation_paths(keys), _whole_streams(keys)
    try:
        return _create(client, distribution, paths, pause, patience_s)
    except InvalidationRefused:
        if paths == wider:
            raise
        return _create(client, distribution, wider, pause, patience_s)


def _create(
    client: CloudFrontClient,
    distribution: str,
    paths: list[str],
    pause: Callable[[float], object],
    patience_s: float,
) -> InvalidationTypeDef:
    # Always a new reference: for a known one CloudFront returns the old invalidation and invalidates nothing.
    batch: InvalidationBatchTypeDef = {
        "Paths": {"Quantity": len(paths), "Items": paths},
        "CallerReference": str(uuid.uuid4()),
    }
    waited = 0.0
    while True:
        try:
            return client.create_invalidation(DistributionId=distribution, InvalidationBatch=batch)["Invalidation"]
        except (ClientError, BotoCoreError) as error:
            if _code(error) != _TOO_MANY or waited >= patience_s:
                raise _failure(error, f"the edge was not asked to invalidate {_shown(paths)}") from error
        pause(_ASK_EVERY_S)
        waited += _ASK_EVERY_S


def _failure(error: ClientError | BotoCoreError, what: str) -> SimplestreamsError:
    """Return what an error of CloudFront means to the caller."""
    if _code(error) in _INVALID:
        return InvalidationRefused(f"{what}: {error}")
    if _code(error) in _DENIED:
        return StorageDenied(f"{what}: {error}; the role needs that right, and the distribution must be the stack's")
    return StorageUnavailable(f"{what}: {error}")


def _code(error: ClientError | BotoCoreError) -> str:
    return str(error.response["Error"].get("Code", "")) if isinstance(error, ClientError) else ""


def _shown(names: Sequence[str]) -> str:
    """Return the first three names, and how many more there are."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
