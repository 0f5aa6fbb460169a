"""The entries that the edge reads before it answers: CloudFront's KeyValueStore.

    token:<sha256 hex of the token>   {"label": "ci", "view": "staging", "until": 1798761600}
    view:<name>                       {"key": "<base64url>", "public": false}
    private                           ["images-staging"]

Keys have at most 512 characters and values 1,024, all entries together 5 MB. A change reaches every edge location
within seconds, and one call takes effect as a whole or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

from botocore.exceptions import BotoCoreError, ClientError, MissingDependencyException

from imageserver.errors import CatalogBusy, SimplestreamsError, StorageDenied, StorageUnavailable

if TYPE_CHECKING:
    from mypy_boto3_cloudfront_keyvaluestore import CloudFrontKeyValueStoreClient

MOST_IN_A_CALL: Final = 50
"""Entries that CloudFront takes in one UpdateKeys."""
LONGEST_KEY: Final = 512
LONGEST_VALUE: Final = 1024
"""Bytes; CloudFront Developer Guide, "Quotas", key value stores."""
_ATTEMPTS: Final = 5
_DENIED: Final = frozenset({"AccessDeniedException", "ResourceNotFoundException"})


@dataclass(frozen=True, slots=True)
class KeyValueStore:
    """The entries of one store; `arn` is the stack's output ViewStoreArn.

    Both methods raise StorageDenied, and StorageUnavailable when a later try may work.
    """

    client: CloudFrontKeyValueStoreClient
    arn: str
    pause: Callable[[float], object] = time.sleep

    def read(self) -> Mapping[str, str]:
        """Return all entries."""
        entries: dict[str, str] = {}
        more: dict[str, Any] = {}
        while True:
            page = self._call("list_keys", MaxResults=MOST_IN_A_CALL, **more)
            entries |= {entry["Key"]: entry["Value"] for entry in page.get("Items", ())}
            if not page.get("NextToken"):
                return entries
            more = {"NextToken": page["NextToken"]}

    def change(self, put: Mapping[str, str], delete: Collection[str]) -> None:
        """Delete entries, then put others. Entries that are already as requested are left alone.

        Raises CatalogBusy if others keep changing the store, and ValueError for an entry that CloudFront cannot hold.
        """
        for key, value in put.items():
            if len(key.encode()) > LONGEST_KEY or len(value.encode()) > LONGEST_VALUE:
                raise ValueError(
                    f"the entry {key[:60]} has a key of {len(key.encode()):,} bytes, a value of "
                    f"{len(value.encode()):,}; the edge's store takes {LONGEST_KEY} and {LONGEST_VALUE:,}"
                )
        for attempt in range(_ATTEMPTS):
            if self._change(put, delete):
                return
            self.pause(0.2 * 2**attempt)
        raise CatalogBusy(f"{_ATTEMPTS} times another change of {self.arn} came first; try again")

    def _change(self, put: Mapping[str, str], delete: Collection[str]) -> bool:
        """Write the differences over the revision read first; return False if that race was lost."""
        revision = self._call("describe_key_value_store")["ETag"]
        there = self.read()
        # Deletes first: revoking access must not wait for granting it.
        deletes = [("Deletes", {"Key": key}) for key in delete if key in there and key not in put]
        puts = [("Puts", {"Key": key, "Value": value}) for key, value in put.items() if there.get(key) != value]
        wanted = deletes + puts
        for start in range(0, len(wanted), MOST_IN_A_CALL):
            batch: dict[str, list[dict[str, str]]] = {}
            for kind, entry in wanted[start : start + MOST_IN_A_CALL]:
                batch.setdefault(kind, []).append(entry)
            try:
                revision = self._call("update_keys", IfMatch=revision, **batch)["ETag"]
            except _Lost:
                return False
        return True

    def _call(self, name: str, **arguments: Any) -> Any:
        try:
            return getattr(self.client, name)(KvsARN=self.arn, **arguments)
        except MissingDependencyException as error:
            raise StorageDenied(
                f"{self.arn} takes only requests signed with SigV4A, and awscrt is missing: pip install awscrt"
            ) from error
        except (ClientError, BotoCoreError) as error:
            code = str(error.response["Error"].get("Code", "")) if isinstance(error, ClientError) else ""
            if code == "ConflictException":
                raise _Lost(str(error)) from error
            if code in _DENIED:
                raise StorageDenied(
                    f"{self.arn} refused: {error}. This needs cloudfront-keyvaluestore:DescribeKeyValueStore, "
                    "ListKeys, UpdateKeys and temporary credentials from a regional endpoint of STS "
                    "(AWS_STS_REGIONAL_ENDPOINTS=regional)"
                ) from error
            raise StorageUnavailable(f"{self.arn} did not answer: {error}") from error


class _Lost(SimplestreamsError):
    """Another change of the store came first."""


def at_endpoint(client: CloudFrontKeyValueStoreClient) -> CloudFrontKeyValueStoreClient:
    """Return a client with an `endpoint_url` that sends its requests exactly there.

    boto3 puts the account in front of the host's name, where a stand-in on one machine has none.
    """
    endpoint = urlsplit(client.meta.endpoint_url)

    def exact(request: Any, **_: Any) -> None:
        request.url = urlunsplit(urlsplit(request.url)._replace(netloc=endpoint.netloc))

    client.meta.events.register("before-sign.cloudfront-keyvaluestore", exact)
    return client
