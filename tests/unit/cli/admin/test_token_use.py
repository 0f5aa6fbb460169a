"""Token uses counted from the edge's log: by view, since when, and unreadable logs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from moto import mock_aws
from msgspec.structs import replace

from cli.admin import token_use
from cli.admin.token_use import CloudWatchLog, LocalLog, LogUnavailable, Use, count
from imageserver.views.view import Token, View
from tests.support.views import private

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
GROUP = "/aws/cloudfront/function/images-us-east-1"
CI = '{"view":"staging","label":"ci"}'


def with_tokens(**made: datetime) -> View:
    tokens = {f"{n:064}": Token(label=label, created=at.isoformat()) for n, (label, at) in enumerate(made.items())}
    return replace(private(), tokens=tokens)


def test_token_uses_are_counted_and_the_latest_found_in_any_order_of_lines() -> None:
    view = with_tokens(ci=NOW - timedelta(days=9), ann=NOW - timedelta(days=9))
    lines = [(NOW - timedelta(hours=hours), f"NXoL9==  {CI}") for hours in (2, 1, 3)]
    assert count(lines, view) == {"ci": Use(3, NOW - timedelta(hours=1)), "ann": Use()}


def test_uses_of_an_earlier_token_with_the_same_label_do_not_count() -> None:
    view = with_tokens(ci=NOW)
    assert count([(NOW - timedelta(seconds=1), CI)], view) == {"ci": Use()}
    assert count([(NOW, CI)], view) == {"ci": Use(1, NOW)}


@pytest.mark.parametrize(
    "text",
    [
        *("", "START DistributionID: E2", "views: Error: staging ci", '{"view":"staging"}'),
        *('{"view":"staging","label":7}', '{"view":"lab","label":"ci"}', '{"view":"staging","label":"eve"}'),
        '{"view":"staging","label":"C I"}',
    ],
)  # fmt: skip
def test_a_log_line_about_something_else_is_not_a_token_use(text: str) -> None:
    assert count([(NOW, text)], with_tokens(ci=NOW)) == {"ci": Use()}


def test_the_local_stacks_log_is_a_file_of_moments_and_texts(tmp_path: Path) -> None:
    log = LocalLog(tmp_path / "log")
    moments = [NOW - timedelta(days=2), NOW - timedelta(hours=1)]
    log.file.write_text("".join(f"{at.isoformat()} {CI}\n" for at in moments) + f"{NOW.isoformat()} lab\n")
    assert list(log.lines("staging", NOW - timedelta(days=1))) == [(moments[1], CI)]
    with pytest.raises(LogUnavailable, match=r"none cannot be read"):
        list(LocalLog(tmp_path / "none").lines("staging", NOW))


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    with mock_aws():
        yield boto3.client("logs", region_name=token_use.REGION)


def logged(logs: Any, stream: str, *lines: tuple[datetime, str]) -> None:
    logs.create_log_stream(logGroupName=GROUP, logStreamName=stream)
    events = [{"timestamp": int(at.timestamp() * 1000), "message": text} for at, text in lines]
    logs.put_log_events(logGroupName=GROUP, logStreamName=stream, logEvents=events)


def test_cloudwatchs_log_is_read_page_by_page_over_all_of_its_streams(
    logs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    logs.create_log_group(logGroupName=GROUP)
    many = [(now - timedelta(seconds=n), f"ID{n} {CI}") for n in range(40, 0, -1)]
    logged(logs, "2026/11/28/a", (now - timedelta(days=3), CI), *many[:20])
    logged(logs, "2026/11/28/b", *many[20:], (now, "views: Error"))
    original, pages = logs.filter_log_events, []

    def few(**asked: Any) -> Any:
        pages.append(asked)
        return original(**asked, limit=7)

    monkeypatch.setattr(logs, "filter_log_events", few)
    found = list(CloudWatchLog(logs, GROUP).lines("staging", now - timedelta(days=1)))
    assert sorted(found) == sorted(many)
    assert len(pages) > 1
    monkeypatch.setattr(token_use, "MOST_PAGES", 2)
    with pytest.raises(LogUnavailable, match="ask for fewer --days"):
        list(CloudWatchLog(logs, GROUP).lines("staging", now - timedelta(days=1)))


def test_a_missing_log_group_is_reported_with_how_it_is_created(logs: Any) -> None:
    with pytest.raises(LogUnavailable, match=f"there is no log group {GROUP} in us-east-1: CloudFront makes it"):
        list(CloudWatchLog(logs, GROUP).lines("staging", NOW))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ClientError({"Error": {"Code": "AccessDeniedException"}}, "x"), "needs logs:FilterLogEvents"),
        (EndpointConnectionError(endpoint_url="https://logs"), "did not answer: "),
    ],
)  # fmt: skip
def test_an_unreadable_log_is_reported_with_the_reason(
    logs: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def refuse(**_: Any) -> Any:
        raise error

    monkeypatch.setattr(logs, "filter_log_events", refuse)
    with pytest.raises(LogUnavailable, match=message):
        list(CloudWatchLog(logs, GROUP).lines("staging", NOW))
