"""Who signs the uploads of the smoke test, and how it reports a refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from cli.smoke import image, uploading
from cli.smoke.web import Answer
from imageserver.api.schema import BatchAnswer
from tests.support.smoke_server import (
    Change,
    FakeServer,
    smoked,
    steps_of,
)


def test_a_caller_that_is_not_a_publisher_signs_with_its_own_credentials(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.publisher = False

    def signed(_: object, made: image.Image) -> Any:
        body = fake._signed(uploading.request_of(made))
        return msgspec.json.decode(body, type=BatchAnswer)

    monkeypatch.setattr(uploading, "with_own_credentials", signed)
    done = steps_of(smoked("--json"))
    assert done["upload"] == (
        "ok", "signed with your own credentials: the API answers 403: you may not write there"
    )  # fmt: skip
    assert done["status"] == ("skipped", "the caller is no publisher")


def body(change: Callable[[bytes], bytes]) -> Change:
    return lambda answer: replace(answer, body=change(answer.body)) if answer.status == 200 else answer


def test_an_s3_error_is_reported_without_the_signature() -> None:
    xml = b"<Error><Code>AccessDenied</Code><Message>Request has\nexpired</Message><Token>secret</Token></Error>"
    assert uploading.refusal_of(Answer(403, {}, xml)) == "AccessDenied: Request has expired"
    assert uploading.refusal_of(Answer(500, {}, b"")) == "nothing"
