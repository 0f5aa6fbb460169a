"""When tokens were used, and how often: what the edge's function logs, counted by label.

The function logs `{"view":"staging","label":"ci"}` once for each index that a token opens (infra/edge/views.js). A
client reads the index for a list or a launch, and at most once an hour; a token and its hash are never logged.
CloudFront delivers these lines on a best-effort basis: a line may be late, and in rare cases is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from cli.admin import aws_api
from imageserver.errors import SimplestreamsError
from imageserver.views.view import View

REGION: Final = "us-east-1"
"""The region in which CloudFront keeps its functions' logs, wherever the stack is."""
MOST_PAGES: Final = 500
"""The most answers of CloudWatch Logs to read; an answer has up to 1 MB or 10,000 lines, and may have none."""
_LINE: Final = re.compile(r'\{"view":"[a-z0-9-]+","label":"[a-z0-9-]+"\}')

Line = tuple[datetime, str]


class LogUnavailable(SimplestreamsError):
    """The log cannot be read; the message says why and what to do."""


class EdgeLog(Protocol):
    """The log of the edge's function."""

    def lines(self, view: str, since: datetime) -> Iterator[Line]:
        """Yield the lines about a view, in any order, and possibly others. Raise LogUnavailable."""


@dataclass(frozen=True, slots=True)
class Use:
    """How often a token opened an index, and when it last did; None for never."""

    uses: int = 0
    last: datetime | None = None


class _Logged(msgspec.Struct, frozen=True):
    view: str
    label: str


def count(lines: Iterable[Line], view: View) -> dict[str, Use]:
    """Return the use of each token of a view, by label. A line older than a token belongs to an earlier token."""
    made = {token.label: datetime.fromisoformat(token.created) for token in view.tokens.values()}
    found = dict.fromkeys(made, Use())
    for at, text in lines:
        line = _LINE.search(text)  # CloudFront puts the request's ID before it
        if line is None:
            continue
        logged = msgspec.json.decode(line[0], type=_Logged)
        if logged.view == view.name and logged.label in made and at >= made[logged.label]:
            before = found[logged.label]
            found[logged.label] = Use(before.uses + 1, max(before.last or at, at))
    return found


@dataclass(frozen=True, slots=True)
class CloudWatchLog:
    """The log group of a function; `client` is boto3's `logs` in REGION."""

    client: Any
    group: str

    def lines(self, view: str, since: datetime) -> Iterator[Line]:
        asked: dict[str, Any] = {
            "logGroupName": self.group,
            "startTime": int(since.timestamp() * 1000),
            "filterPattern": f'"{view}"',  # a term in quotes, since it may have a hyphen
        }
        for _ in range(MOST_PAGES):
            page = self._page(asked)
            for event in page.events:
                yield datetime.fromtimestamp(event.timestamp / 1000, UTC), event.message
            if not page.next_token:
                return
            asked["nextToken"] = page.next_token
        raise LogUnavailable(f"{self.group} has more than {MOST_PAGES} answers about {view}; ask for fewer --days")

    def _page(self, asked: dict[str, Any]) -> aws_api.LogEvents:
        try:
            return aws_api.read(self.client.filter_log_events(**asked), aws_api.LogEvents)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ResourceNotFoundException":
                raise LogUnavailable(
                    f"there is no log group {self.group} in {REGION}: CloudFront makes it when a token is first used"
                ) from error
            raise LogUnavailable(
                f"{self.group} in {REGION} refused: {error}. This needs logs:FilterLogEvents on that log group"
            ) from error
        except BotoCoreError as error:
            raise LogUnavailable(f"{self.group} in {REGION} did not answer: {error}") from error


@dataclass(frozen=True, slots=True)
class LocalLog:
    """The file with the local stack's log of the edge's function: a timestamp and a text in each line."""

    file: Path

    def lines(self, view: str, since: datetime) -> Iterator[Line]:
        try:
            with self.file.open() as lines:
                for line in lines:
                    moment, _, text = line.rstrip("\n").partition(" ")
                    if view in text and (at := datetime.fromisoformat(moment)) >= since:
                        yield at, text
        except OSError as error:
            raise LogUnavailable(f"{self.file} cannot be read: {error}") from error
