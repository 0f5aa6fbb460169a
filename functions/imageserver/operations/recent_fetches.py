"""Tell retention which versions clients have fetched recently, according to the edge's access logs.

A version may go only if the logs prove that nobody fetched it. If they are missing, too young, cut or unreadable, every
version stays, and the run reports why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Final

from imageserver.errors import StorageDenied, StorageUnavailable
from imageserver.format.keys import VersionId
from imageserver.format.wording import counted
from imageserver.operations.access_logs import PREFIX, Logs, count_requests, days_ago, find_logs
from imageserver.operations.runs import Failure, Run
from imageserver.storage.port import Store

LATEST: Final = timedelta(days=2)
"""How old the newest log may be. CloudFront delivers within a day, and a server in use gets requests every hour."""
_ORDER_THEM: Final = "set EdgeLogs to true, or order logs of version 2"

ReasonToKeep = Callable[[VersionId, Run], str]
"""Returns why retention leaves a version, "" if it does not. Failures to find out are noted in the run."""


def no_reason(_version: VersionId, _run: Run) -> str:
    """Let retention take every version: the default, which ignores fetches."""
    return ""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Path of a version -> when it was last fetched. `doubt` says why other versions may have been fetched too."""

    versions: Mapping[str, str] = field(default_factory=dict)
    doubt: str = ""
    error: Exception | None = None


def fetched_within(days: int, logs: Store, now: datetime, more: Callable[[], bool]) -> ReasonToKeep:
    """Return the function that keeps versions fetched in the last `days`.

    The logs are read once, for the first version it is asked about, and only while `more` returns True.
    """
    look = cache(lambda: _fetched(days, logs, now, more))
    noted = False

    def reason(version: VersionId, run: Run) -> str:
        nonlocal noted
        fetched = look()
        if fetched.error and not noted:
            noted = True
            run.failed.append(Failure("read the access logs in", PREFIX, fetched.error))
        if last := fetched.versions.get(version.path):
            return f"it was last fetched at {last}, and versions that were fetched within {days} days are kept"
        return f"it may have been fetched within {days} days: {fetched.doubt}" if fetched.doubt else ""

    return reason


def _fetched(days: int, store: Store, now: datetime, more: Callable[[], bool]) -> Fetched:
    try:
        logs = find_logs(store, days_ago(now, days))
        if doubt := _doubt(logs, days, now):
            return Fetched(doubt=doubt)
        counts = count_requests(store, logs.files, more=more)
    except (StorageDenied, StorageUnavailable) as error:
        return Fetched(doubt="the access logs cannot be read", error=error)
    versions = {path: found.last_fetched or "an unknown time" for path, found in counts.versions.items()}
    doubt = ""
    if counts.damaged:
        key, why = next(iter(counts.damaged.items()))
        doubt = f"{key} {why}"
    elif counts.unreadable:
        why, lines = next(iter(counts.unreadable.items()))
        doubt = f"{counted(lines, 'line')} of the access logs cannot be read, each of which {why}"
    elif counts.uncounted:
        doubt = "the access logs name more versions than are counted separately"
    return Fetched(versions, doubt)


def _doubt(logs: Logs, days: int, now: datetime) -> str:
    """Return why the logs do not cover the period; empty if they do."""
    if not (logs.oldest and logs.newest and logs.since):
        return f"there are no access logs below {PREFIX}; {_ORDER_THEM}"
    if logs.oldest > logs.since:
        return (
            f"the access logs begin at {logs.oldest:%Y-%m-%d %H:%M}, and {days} days of them are needed; "
            "LogRetentionDays must be longer than that"
        )
    if now - logs.newest > LATEST:
        return f"the newest access log is of {logs.newest:%Y-%m-%d %H:%M}; {_ORDER_THEM}"
    return ""
