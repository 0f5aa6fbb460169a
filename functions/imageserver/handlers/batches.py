"""Handle a batch of messages from a queue: each subject once, and each failed message again before long.

A process can die in the middle of a batch: out of memory, or out of time. Its queue would hide all messages of the
batch for six times the function's timeout and then hand them out together again, so one deadly message would take its
neighbours down each time. Therefore (decisions/0011-killed-workers.md):

- messages stay hidden for a minute at a time, as long as the process lives (`queues.Hold`);
- what is handled is deleted before the next subject is begun;
- what was received before comes last and by itself: a death then finds its neighbours handled.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    """A message as Lambda delivers it, and its subject; `readable` is false for one that is no event."""

    record: Mapping[str, Any]
    subjects: frozenset[Subject]
    readable: bool = True


def seconds_left(context: LambdaContext) -> float:
    """Return how long this run may still last."""
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
    """Handle what the messages are about; those of which a subject failed are answered as failed, and rest for a while.

    `read` returns the keys that a message names, or raises UnreadableEvent. `subject_of` returns what a key is about,
    None for nothing. `handle` gets subjects and how often their messages were
    received at most; it returns the error of each that failed, or raises what is the error of all. Each is logged.
    Subjects whose messages were received `together` times at most are handled in one call. Each other one is handled by
    itself, with those that are `part_of` the same.
    Without a `queue_url` the messages are left to the queue's own visibility timeout.
    """
    messages = [_read(record, read, subject_of, logger) for record in event["Records"]]
    tries: dict[Subject, int] = {}
    for message in messages:
        for subject in message.subjects:
            tries[subject] = max(tries.get(subject, 0), queues.tries_of(message.record))
    failures: dict[Subject, Exception] = {}
    done: set[Subject] = set()
    with _hold(event["Records"], queue_url, logger) as hold:
        for group in _groups(tries, together, part_of):
            if done:
                hold.delete([m.record for m in messages if m.readable and m.subjects <= done - failures.keys()])
            failures |= _handled(group, tries, handle, logger)
            done.update(group)
        failed = [m.record for m in messages if not m.readable or m.subjects & failures.keys()]
        hold.rest(failed)
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
    """Return the subjects of each call, in order: those received least often first."""
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
        if id(failure) in logged:  # one fault of many products
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


@contextmanager
def _hold(records: Sequence[Mapping[str, Any]], queue_url: str, logger: Logger) -> Iterator[queues.Hold]:
    hold = queues.Hold(sqs_client() if queue_url else None, queue_url, records)
    with hold:
        yield hold
    if hold.problem:
        logger.warning("messages come back only when their visibility timeout ends", reason=hold.problem)
