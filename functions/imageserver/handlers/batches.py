"""A batch of messages from a queue, one after the other; what failed stays there and comes back before long."""

from collections.abc import Callable
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from imageserver.aws import queues
from imageserver.aws.clients import sqs_client

_processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)


def handle_each(
    event: dict[str, Any],
    handle: Callable[[SQSRecord], None],
    context: LambdaContext,
    queue_url: str,
    logger: Logger,
) -> PartialItemFailureResponse:
    """Call `handle` for each message; those for which it raised are answered as failed.

    They rest for a time that grows with their tries (aws.queues). Without a `queue_url` it is the queue's own.
    """
    answer = process_partial_response(event, handle, _processor, context)
    failed = {str(failure["itemIdentifier"]) for failure in answer["batchItemFailures"]}
    if failed and queue_url:
        problem = queues.try_again_soon(sqs_client(), queue_url, event["Records"], failed)
        if problem:
            logger.warning("the messages come back only when their visibility timeout ends", reason=problem)
    return answer
