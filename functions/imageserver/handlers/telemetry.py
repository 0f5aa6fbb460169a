"""What the functions say of a version in their logs, and how they count refusals: one vocabulary for all of them.

A line about a version carries `stream`, `product`, `version`, `outcome`, `bytes` and `seconds`. Never a URL: a
presigned one is a password.
"""

from typing import Any

from aws_lambda_powertools import Logger

from imageserver.errors import InvalidUpload
from imageserver.format.keys import RECORDS, VersionId, parse_record_key, parse_version, version_of


def about(version: VersionId) -> dict[str, Any]:
    """Return the fields that name a version."""
    return {"stream": version.product.stream, "product": version.product.name, "version": version.version}


def about_path(path: str) -> dict[str, Any]:
    """Return the same for the path of a version; nothing for any other path."""
    try:
        return about(parse_version(path))
    except InvalidUpload:
        return {}


def about_key(key: str) -> dict[str, Any]:
    """Return the fields that name the version of an upload or a record, if its key has one, and the key itself."""
    try:
        version = parse_record_key(key) if key.startswith(RECORDS) else version_of(key)
    except InvalidUpload:
        return {"key": key}
    return {**about(version), "key": key}


def log_unexpected(logger: Logger, error: Exception, what: str = "failed unexpectedly", **about: Any) -> None:
    """Log an exception that no rule foresees, with its traceback."""
    logger.error(what, **about, error=type(error).__name__, reason=str(error), exc_info=error)


def count_refusal(reason: str) -> None:
    """Count one refusal under a reason of few words: a metric lives for each of them."""
    from aws_lambda_powertools import single_metric  # a function that refuses nothing need not load it
    from aws_lambda_powertools.metrics import MetricUnit

    with single_metric("Refusals", MetricUnit.Count, 1) as metric:
        metric.add_dimension("reason", reason)
