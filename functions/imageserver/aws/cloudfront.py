"""What CloudFront must invalidate when a path gets other bytes, or none.

Images are cached for a year. A path that has held other bytes is invalidated before the catalog lists it
with its new digest, and the catalog waits until that is done: no client is ever given old bytes under a new
digest. A path whose file was deleted is invalidated too, so that deleted is deleted.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from botocore.exceptions import BotoCoreError, ClientError

from imageserver.errors import StorageUnavailable

if TYPE_CHECKING:
    from mypy_boto3_cloudfront import CloudFrontClient
    from mypy_boto3_cloudfront.type_defs import InvalidationBatchTypeDef, InvalidationTypeDef

_ASK_EVERY_S: Final = 2
_SINGLY: Final = 1000  # CloudFront takes 3,000 paths in progress; above this whole streams are invalidated

Invalidate = Callable[[Sequence[str]], None]


def no_invalidation(_keys: Sequence[str]) -> None:
    """For a server without an edge."""


def invalidate(
    client: CloudFrontClient,
    distribution: str,
    keys: Sequence[str],
    pause: Callable[[float], object],
    patience_s: float,
) -> None:
    """Invalidate the paths of these objects and wait for it, which takes 5 to 15 s as a rule and minutes at worst.

    StorageUnavailable when CloudFront does not answer or is not done in `patience_s`.
    """
    asked, waited = request_invalidation(client, distribution, keys, pause, patience_s), 0.0
    while asked["Status"] != "Completed":
        if waited >= patience_s:
            raise StorageUnavailable(f"the edge has not invalidated {len(keys)} paths within {waited:.0f} s")
        pause(_ASK_EVERY_S)
        waited += _ASK_EVERY_S
        try:
            asked = client.get_invalidation(DistributionId=distribution, Id=asked["Id"])["Invalidation"]
        except (ClientError, BotoCoreError) as error:
            raise StorageUnavailable(f"the edge does not say whether it has invalidated {keys[0]}: {error}") from error


def request_invalidation(
    client: CloudFrontClient,
    distribution: str,
    keys: Sequence[str],
    pause: Callable[[float], object],
    patience_s: float,
) -> InvalidationTypeDef:
    """Have the paths of these objects invalidated, without waiting for it.

    CloudFront takes so many at once and no more until some are done: that is waited for, as long as `patience_s`.
    StorageUnavailable when it does not take them.
    """
    paths = sorted({"/" + quote(key, safe="/:~") for key in keys})
    if len(paths) > _SINGLY:
        paths = sorted({f"/{key.split('/')[0]}/*" for key in keys})
    # Always a new reference: one that was used before would give the old invalidation back and invalidate nothing.
    batch: InvalidationBatchTypeDef = {
        "Paths": {"Quantity": len(paths), "Items": paths},
        "CallerReference": str(uuid.uuid4()),
    }
    waited = 0.0
    while True:
        try:
            return client.create_invalidation(DistributionId=distribution, InvalidationBatch=batch)["Invalidation"]
        except (ClientError, BotoCoreError) as error:
            if _too_many(error) and waited < patience_s:
                pause(_ASK_EVERY_S)
                waited += _ASK_EVERY_S
                continue
            raise StorageUnavailable(f"the edge was not told to invalidate {', '.join(paths)}: {error}") from error


def _too_many(error: Exception) -> bool:
    code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
    return code == "TooManyInvalidationsInProgress"
