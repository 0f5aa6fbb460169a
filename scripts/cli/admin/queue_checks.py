"""The doctor's look at the queues: who tells them, whether anything waits too long, and what died."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cli.admin import answers
from cli.admin.findings import DEPLOY, Findings, NotSeen
from cli.admin.place import Place, Queue
from imageserver.format.keys import RECORDS

EVENTS: Final = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
MANY: Final = 1000
OLD_S: Final = {"images": 1800, RECORDS: 600}
"""As the alarms ArrivalsAge and ChangesAge have it."""
STUCK: Final = "look at the functions' errors and throttles"


def wiring(place: Place) -> Findings:
    """The bucket tells both queues of everything, and each lets it."""
    for prefix in OLD_S:
        found = place.wiring.get(prefix)
        if found is None:
            yield f"the bucket tells nobody about {prefix}*: uploads stay unseen", DEPLOY
            continue
        if found["events"] != EVENTS:
            yield f"of {prefix}* only {', '.join(found['events'])} is told", DEPLOY
        if place.endpoint is None and not _lets_in(place.queue(prefix), place.bucket):
            yield f"the policy of the queue of {prefix}* does not let S3 send to it: uploads stay unseen", DEPLOY


def _lets_in(queue: Queue, bucket: str) -> bool:
    """Whether the queue's policy allows S3 to send for this bucket."""
    statements = json.loads(queue.attributes.get("Policy") or "{}").get("Statement", [])
    return any(_allows(statement, bucket) for statement in statements)


def _allows(statement: dict[str, Any], bucket: str) -> bool:
    principal = statement.get("Principal", {})
    services = _several(principal.get("Service", [])) if isinstance(principal, dict) else []
    actions = {action.lower() for action in _several(statement.get("Action", []))}
    sources = [
        arn
        for operator in statement.get("Condition", {}).values()
        for name, value in operator.items()
        if name.lower() == "aws:sourcearn"
        for arn in _several(value)
    ]
    return (
        statement.get("Effect") == "Allow"
        and "s3.amazonaws.com" in services
        and bool(actions & {"sqs:sendmessage", "sqs:*", "*"})
        and (not sources or any(arn.endswith(f":{bucket}") for arn in sources))
    )


def _several(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def queues(place: Place) -> Findings:
    """Nothing waits too long, and nothing died."""
    for prefix in (prefix for prefix in OLD_S if prefix in place.wiring):
        queue = place.queue(prefix)
        waiting = int(queue.attributes["ApproximateNumberOfMessages"])
        if waiting > MANY:
            yield f"{waiting:,} notices of {prefix}* wait", STUCK
        if place.stack and (age := _age_s(place, queue)) > OLD_S[prefix]:
            yield f"the oldest notice of {prefix}* waits for {age / 60:.0f} minutes", STUCK
        if not queue.dead_letters:
            yield f"the queue of {prefix}* has no dead-letter queue", DEPLOY
        elif dead := _count(place, queue.dead_letters):
            yield f"{dead:,} dead letters of {prefix}*", "admin redrive shows why; admin redrive --yes sends them back"
    if not place.stack:
        yield NotSeen("how long the oldest notice waits: only with --stack")
    yield from _of_maintain(place)


def _of_maintain(place: Place) -> Findings:
    if place.maintain_dead_letters:
        if dead := _count(place, place.maintain_dead_letters):
            yield f"{dead:,} dead letters of maintain", "admin redrive maintain shows why, and what to do"
    elif place.stack or place.endpoint:
        yield "maintain has no dead-letter queue: that a schedule failed, nobody hears", DEPLOY
    else:
        yield NotSeen("the dead letters of maintain: their queue is not known by its name, only with --stack")


def _count(place: Place, url: str) -> int:
    return int(place.attributes(url)["ApproximateNumberOfMessages"])


def _age_s(place: Place, queue: Queue) -> float:
    """How long the oldest message waits, in seconds; 0 while CloudWatch has no figure, as for an empty queue."""
    now = datetime.now(UTC)
    found = place.session.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/SQS",
        MetricName="ApproximateAgeOfOldestMessage",
        Dimensions=[{"Name": "QueueName", "Value": queue.url.rpartition("/")[2]}],
        StartTime=now - timedelta(minutes=15),
        EndTime=now,
        Period=60,
        Statistics=["Maximum"],
    )
    points = answers.read(found, answers.Statistics).datapoints
    newest = max(points, key=lambda point: point.timestamp, default=None)
    return newest.maximum if newest else 0.0
