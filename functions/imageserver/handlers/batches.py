"""A batch of messages from a queue, one after the other; what failed stays there and comes back before long."""

from collections.abc import Callable
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from imageserver.aws import events, queues
from imageserver.aws.clients import sqs_client
from imageserver.errors import SimplestreamsError
from imageserver.handlers import telemetry

_processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)


def handle_each(
    event: dict[str, Any],
    handle: Callable[[str], None],
    context: LambdaContext,
    queue_url: str,
    logger: Logger,
) -> PartialItemFailureResponse:
    """Call `handle` for each key that a message is about; messages for which it raised are answered as failed.

    They rest for a time that grows with their tries (aws.queues). Without a `queue_url` it is the queue's own. `handle`
    logs errors of ours, of which it knows more; any other exception is logged here, once, with its version.
    """
    told: list[Exception] = []

    def handle_record(record: SQSRecord) -> None:
        failed: list[Exception] = []
        for key in _keys(record, logger):
            try:
                handle(key)
            except Exception as error:  # noqa: BLE001  (raised below: the other keys come first)
                failed.append(error)
                if not isinstance(error, SimplestreamsError) and not any(error is known for known in told):
                    told.append(error)  # one version may have several messages
                    telemetry.log_unexpected(logger, error, **telemetry.about_key(key))
        if failed:
            raise failed[0]

    answer = process_partial_response(event, handle_record, _processor, context)
    failed = {str(failure["itemIdentifier"]) for failure in answer["batchItemFailures"]}
    if failed and queue_url:
        problem = queues.try_again_soon(sqs_client(), queue_url, event["Records"], failed)
        if problem:
            logger.warning("the messages come back only when their visibility timeout ends", reason=problem)
    return answer


def _keys(record: SQSRecord, logger: Logger) -> list[str]:
    try:
        return events.keys(record.body)
    except events.UnreadableEvent as error:
        logger.error("unreadable message", reason=str(error))
        raise
