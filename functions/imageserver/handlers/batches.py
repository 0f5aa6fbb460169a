"""Handle a batch of queue messages: each subject once, and each failed message again soon.

A process can die in the middle of a batch, out of memory or out of time. The queue would hide all messages of the batch
for six times the function's timeout and then deliver them together again, so one message that kills its worker would
take its neighbours down each time. Therefore (decisions/0011-killed-workers.md):

- messages are hidden for a minute at a time, for as long as the process lives (`queues.Hold`);
- a handled message is deleted before the next subject begins;
- a message that was received before comes last and alone: if the worker dies of it, its neighbours are done.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from imageserver.aws import events, queues
from imageserver.aws.clients import sqs_client
from imageserver.errors import LeaseHeld, SimplestreamsError
from imageserver.handlers import telemetry

Subject = TypeVar("Subject", bound=Hashable)
Answer = dict[str, list[dict[str, str]]]
"""A partial batch response: {"batchItemFailures": [{"itemIdentifier": <id of a message that stays>}, …]}."""


@dataclass(frozen=True, slots=True)
class _Message(Generic[Subject]):
    """A message as Lambda delivers it, and its subject; `readable` is false if it is not an event."""

    record: Mapping[str, Any]
    subjects: frozenset[Subject]
    readable: bool = True


def seconds_left(context: LambdaContext) -> float:
    """Return how many seconds this run has left."""
    return context.get_remaining_time_in_millis() / 1000


def handle_each(
    event: Mapping[str, Any],
    subject_of: Callable[[Any], Subject | None],
    handle: Callable[[Sequence[Subject], int], Mapping[Subject, Exception]],
    queue_url: str,
    logger: Logger,
    together: int = 0,
    read: Callable[[str], Sequence[Any]] = events.keys,
    part_of: Callable[[Subject], Hashable] = lambda subject: subject,
) -> Answer:
    """Handle the subjects of the messages. A message with a failed subject is reported and hidden for a while.

    `read` returns the keys that a message names, or raises UnreadableEvent. `subject_of` returns the subject of a key,
    or None. `handle` gets subjects and the highest receive count of their messages; it returns the error of
    each failed subject, or raises an error that counts for all. Each error is logged. Subjects whose messages were
    received at most `together` times are handled in one call. Any other subject is handled alone, with those that are
    `part_of` the same thing. Without a `queue_url` the queue's own visibility timeout applies.
    """
    messages = [_read(record, read, subject_of, logger) for record in event["Records"]]
    tries: dict[Subject, int] = {}
    for message in messages:
        for subject in message.subjects:
            tries[subject] = max(tries.get(subject, 0), queues.tries_of(message.record))
    failures: dict[Subject, Exception] = {}
    done: set[Subject] = set()
    hold = queues.Hold(sqs_client() if queue_url else None, queue_url, event["Records"])
    with hold:
        for group in _groups(tries, together, part_of):
            if done:
                hold.delete([m.record for m in messages if m.readable and m.subjects <= done - failures.keys()])
            failures |= _handled(group, tries, handle, logger)
            done.update(group)
        failed = [m.record for m in messages if not m.readable or m.subjects & failures.keys()]
        hold.rest(failed)
    if hold.problem:
        logger.warning("messages come back only when their visibility timeout ends", reason=hold.problem)
    return {"batchItemFailures": [{"itemIdentifier": record["messageId"]} for record in failed]}


def _read(
    record: Mapping[str, Any],
    read: Callable[[str], Sequence[Any]],
    subject_of: Callable[[Any], Subject | None],
    logger: Logger,
) -> _Message[Subject]:
    try:
        subjects = [subject_of(key) for key in read(record["body"])]
    except events.UnreadableEvent as error:
        logger.error("unreadable message", reason=str(error))
        return _Message(record, frozenset(), readable=False)
    return _Message(record, frozenset(subject for subject in subjects if subject is not None))


def _groups(tries: Mapping[Subject, int], together: int, part_of: Callable[[Subject], Hashable]) -> list[list[Subject]]:
    """Return the subjects of each call, those received least often first."""
    order = sorted(tries, key=lambda subject: tries[subject])
    first = [subject for subject in order if tries[subject] <= together]
    others: dict[Hashable, list[Subject]] = {}
    for subject in order[len(first) :]:
        others.setdefault(part_of(subject), []).append(subject)
    return [*([first] if first else []), *others.values()]


def _handled(
    group: Sequence[Subject],
    tries: Mapping[Subject, int],
    handle: Callable[[Sequence[Subject], int], Mapping[Subject, Exception]],
    logger: Logger,
) -> Mapping[Subject, Exception]:
    try:
        failures = handle(group, max(tries[subject] for subject in group))
    except Exception as error:  # noqa: BLE001  (logged below)
        failures = dict.fromkeys(group, error)
    logged: set[int] = set()
    for subject, failure in failures.items():
        if id(failure) in logged:  # one fault that many products share
            continue
        logged.add(id(failure))
        about = {**telemetry.about(subject), "error": type(failure).__name__, "reason": str(failure)}
        if isinstance(failure, LeaseHeld):
            logger.info("comes back later", **about)
        elif isinstance(failure, SimplestreamsError):
            logger.error("left in the queue", **about)
        else:
            logger.error("failed unexpectedly", **about, exc_info=failure)
    return failures
