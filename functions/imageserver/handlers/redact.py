"""The redact function: events about new access logs in, those logs without tokens out.

It exists where there are private remotes. A log that cannot be read is retried until it is a dead letter.
"""

from imageserver.handlers import coldstart

# isort: split

import os
from collections.abc import Mapping, Sequence
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from imageserver.aws import events
from imageserver.aws.clients import s3_client
from imageserver.aws.events import Upload
from imageserver.handlers import batches
from imageserver.operations.redact_log import redact_log
from imageserver.settings import Settings
from imageserver.storage.s3 import S3Store

logger = Logger(use_rfc3339=True)  # Lambda takes lines with another form of time for INFO
settings = Settings.from_environment(os.environ)
store = S3Store(s3_client(), settings.logs_bucket)
coldstart.loaded()


@logger.inject_lambda_context
def handler(event: dict[str, Any], _context: LambdaContext) -> batches.Answer:
    """Redact each log of the batch; what could not be redacted stays in the queue."""

    def redact(logs: Sequence[Upload], _tries: int) -> Mapping[Upload, Exception]:
        for log in logs:
            if redact_log(store, log.key, log.etag):
                logger.info("redacted", key=log.key)
        return {}

    return batches.handle_each(event, lambda log: log, redact, settings.queue_url, logger, read=events.uploads)
