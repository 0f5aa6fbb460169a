"""The wire between boto3 and AWS: a test sets what AWS answers, and nothing leaves this machine."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import botocore.httpsession
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request: status, headers and body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Wire:
    """Answers every request of boto3. `asked` has each as (method, host, path), in order."""

    answer: Callable[[str, str, str], Answer | Exception]
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def send(self, request: AWSPreparedRequest) -> AWSResponse:
        """Answer as the HTTP session of botocore does."""
        url = urlsplit(str(request.url))
        self.asked.append((str(request.method), url.netloc, url.path))
        found = self.answer(str(request.method), url.netloc, url.path)
        if isinstance(found, Exception):
            raise found
        raw = _Raw(found.body)
        headers = {"Content-Length": str(len(found.body)), **found.headers}
        return AWSResponse(str(request.url), found.status, HTTPHeaders.from_dict(headers), raw)


class _Raw(io.BytesIO):
    """The body as urllib3 gives it."""

    def stream(self, **_: Any) -> Any:
        while chunk := self.read(1024):
            yield chunk


def wired(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str, str, str], Answer | Exception]) -> Wire:
    """Put a wire between boto3 and AWS for the rest of a test."""
    wire = Wire(answer)
    monkeypatch.setattr(botocore.httpsession.URLLib3Session, "send", lambda _, request: wire.send(request))
    return wire


def s3_error(status: int, code: str, message: str = "no", **headers: str) -> Answer:
    """Return an error as S3 answers it to anything but a HEAD."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return Answer(status, headers, body)
