"""The names of the template's resources on this machine."""

from collections.abc import Mapping
from typing import Any

from local_stack.errors import TemplateError
from local_stack.template import ACCOUNT_ID, StackIdentity


class Names:
    """Physical names and attributes of resources, known before any of them is made."""

    def __init__(
        self, identity: StackIdentity, endpoint: str, values: Mapping[str, Any], edge: str = "localhost"
    ) -> None:
        self._identity = identity
        self._endpoint = endpoint
        self._edge = edge
        self._values = values

    def of(self, logical_id: str, kind: str, attribute: str | None, _body: Mapping[str, Any]) -> str:
        """Return the Ref (attribute None) or GetAtt of a resource."""
        region = self._identity.region
        bucket = self.bucket(logical_id)
        table: dict[str, dict[str | None, str]] = {
            "AWS::S3::Bucket": {
                None: bucket,
                "Arn": f"arn:aws:s3:::{bucket}",
                "DomainName": f"{bucket}.s3.amazonaws.com",
                "RegionalDomainName": f"{bucket}.s3.{region}.amazonaws.com",
            },
            "AWS::SQS::Queue": {
                None: f"{self._endpoint}/{ACCOUNT_ID}/{logical_id}",
                "Arn": f"arn:aws:sqs:{region}:{ACCOUNT_ID}:{logical_id}",
                "QueueName": logical_id,
            },
            "AWS::Lambda::Function": {
                None: logical_id,
                "Arn": f"arn:aws:lambda:{region}:{ACCOUNT_ID}:function:{logical_id}",
            },
            "AWS::CloudFront::KeyValueStore": {
                None: logical_id,
                "Arn": f"arn:aws:cloudfront::{ACCOUNT_ID}:key-value-store/00000000-0000-4000-8000-000000000000",
            },
            # Empty, so that publish has no edge to invalidate: the local edge caches nothing.
            "AWS::CloudFront::Distribution": {None: "", "Id": "", "DomainName": self._edge},
        }
        if kind not in table:
            return logical_id if attribute is None else f"{logical_id}.{attribute}"
        if attribute not in table[kind]:
            raise TemplateError(f"{logical_id} ({kind}): the local stack does not know its attribute {attribute}")
        return table[kind][attribute]

    def bucket(self, logical_id: str) -> str:
        """Return the name of a bucket: global and lower case; the template names only the main one."""
        if logical_id == "Bucket":
            return str(self._values.get("BucketName") or "") or (
                f"{self._identity.stack_name}-{ACCOUNT_ID}-{self._identity.region}"
            )
        return f"{self._identity.stack_name}-{logical_id.lower()}-{ACCOUNT_ID}"
