"""What CloudFront must forget when a path gets other bytes, or none.

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

from simplestreams.errors import StorageUnavailable

if TYPE_CHECKING:
    from mypy_boto3_cloudfront import CloudFrontClient

_ASK_EVERY_S: Final = 2
_SINGLY: Final = 1000  # CloudFront takes 3,000 paths in progress; above this whole streams are forgotten

Forget = Callable[[Sequence[str]], None]


def nothing_to_forget(_keys: Sequence[str]) -> None:
    """For a server without an edge."""


def forget(
    client: CloudFrontClient,
    distribution: str,
    keys: Sequence[str],
    pause: Callable[[float], object],
    patience_s: float,
) -> None:
    """Invalidate the paths of these objects and wait for it, which takes 5 to 15 s as a rule and minutes at worst.

    StorageUnavailable when CloudFront does not answer or is not done in `patience_s`.
    """
    paths = sorted({"/" + quote(key, safe="/:~") for key in keys})
    if len(paths) > _SINGLY:
        paths = sorted({f"/{key.split('/')[0]}/*" for key in keys})
    try:
        # Always a new reference: one that was used before would give the old invalidation back and forget nothing.
        batch = {"Paths": {"Quantity": len(paths), "Items": paths}, "CallerReference": str(uuid.uuid4())}
        made = client.create_invalidation(DistributionId=distribution, InvalidationBatch=batch)  # type: ignore[arg-type]
        status, waited = made["Invalidation"]["Status"], 0
        while status != "Completed" and waited < patience_s:
            pause(_ASK_EVERY_S)
            waited += _ASK_EVERY_S
            found = client.get_invalidation(DistributionId=distribution, Id=made["Invalidation"]["Id"])
            status = found["Invalidation"]["Status"]
    except (ClientError, BotoCoreError) as error:
        raise StorageUnavailable(f"the edge was not told to forget {', '.join(paths)}: {error}") from error
    if status != "Completed":
        raise StorageUnavailable(f"the edge has not forgotten {len(paths)} paths within {waited} s")
