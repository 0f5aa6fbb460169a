"""Name versions in logs and count refusals, in the same words for all functions.

A line about a version carries `stream`, `product`, `version`, `outcome`, `bytes` and `seconds`. It never contains a
URL, because a presigned URL is a credential.
"""

from typing import Any

from imageserver.errors import InvalidUpload
from imageserver.format.keys import ProductId, VersionId, parse_version


def about(subject: object) -> dict[str, Any]:
    """Return the log fields for a version or a product; none for anything else."""
    if isinstance(subject, VersionId):
        return {**about(subject.product), "version": subject.version}
    return {"stream": subject.stream, "product": subject.name} if isinstance(subject, ProductId) else {}


def about_path(path: str) -> dict[str, Any]:
    """Return the log fields for the path of a version; none for any other path."""
    try:
        return about(parse_version(path))
    except InvalidUpload:
        return {}


def count_refusal(reason: str) -> None:
    """Count one refusal under its reason. Each reason is a separate metric, so there must be few."""
    from aws_lambda_powertools import single_metric  # a function that refuses nothing need not load it
    from aws_lambda_powertools.metrics import MetricUnit

    with single_metric("Refusals", MetricUnit.Count, 1) as metric:
        metric.add_dimension("reason", reason)
