"""Upload the image as publishers do: ask for presigned URLs, then PUT each file with just those headers."""

import hashlib
import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import msgspec

from cli.smoke.image import PRODUCT, Image
from cli.smoke.run import Failed
from cli.smoke.server import Server
from cli.smoke.web import Answer
from imageserver.api import uploads
from imageserver.api.problems import Problem
from imageserver.api.schema import BatchAnswer, BatchFile, BatchRequest, Single
from imageserver.catalog.rights import Rights
from imageserver.storage.presigned import S3Uploads

OPERATOR: Final = "operator"


def request_of(image: Image) -> BatchRequest:
    """Return the request for one PUT of each file, with its digest declared."""
    files = [
        BatchFile(file=file, size=len(body), sha256=hashlib.sha256(body).hexdigest(), multipart=False)
        for file, body in image.files.items()
    ]
    return BatchRequest(version=image.version.path, files=files)


def through_api(server: Server, image: Image) -> BatchAnswer | str:
    """Ask the API for URLs. Return its refusal if the caller is no publisher. Raise Failed for any other answer."""
    answer = server.call("POST", "uploads/batch", msgspec.json.encode(request_of(image)))
    if answer.status in (401, 403):
        return f"the API answers {answer.status}: {refusal_of(answer)}"
    if answer.status != 201:
        raise Failed(f"the API answers {answer.status} for an upload, expected 201: {refusal_of(answer)}")
    try:
        return msgspec.json.decode(answer.body, type=BatchAnswer)
    except msgspec.DecodeError as error:
        raise Failed(f"the API's answer for an upload does not match /openapi.json: {error}") from error


def with_own_credentials(server: Server, image: Image) -> BatchAnswer:
    """Sign the same URLs here, with the operator's credentials and the API's own rules."""
    store = S3Uploads(server.deployment.s3, server.deployment.bucket)
    rights = Rights.parse(json.dumps({OPERATOR: [f"{PRODUCT.path}/"]}))
    service = uploads.UploadService(
        store, rights, server.deployment.max_bytes, allow_overwrites=False, now=datetime.now(UTC), pause=time.sleep
    )
    try:
        return uploads.sign_batch(service, OPERATOR, request_of(image))
    except Problem as problem:
        raise Failed(problem.detail) from problem


def send(server: Server, image: Image, answer: BatchAnswer) -> None:
    """Send each file by PUT. Raise Failed with the file and S3's answer."""
    for upload in answer.uploads:
        file = upload.path.removeprefix(image.version.prefix)
        if not isinstance(upload, Single) or file not in image.files:
            wanted = ", ".join(image.files)
            raise Failed(f"expected one PUT for each of {wanted}, got {type(upload).__name__} for {file}")
        put = server.web.ask(upload.url, upload.method, sendable(upload.headers), image.files[file])
        if put.status not in (200, 201):
            raise Failed(f"S3 answers {put.status} for the PUT of {upload.path}: {refusal_of(put)}")


def sendable(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that a URL signs, without the one that the HTTP library sets itself."""
    return {name: value for name, value in headers.items() if name.lower() != "content-length"}


def refusal_of(answer: Answer) -> str:
    """Return the sentence of a problem document or an S3 error, else the start of the body, on one line."""
    text = answer.body.decode(errors="replace")
    if error := re.search(r"<Code>(.*?)</Code>\s*<Message>(.*?)</Message>", text, re.DOTALL):
        text = f"{error[1]}: {error[2]}"  # the rest may hold the string that was signed
    with suppress(ValueError, KeyError, TypeError):  # API Gateway's own answers are no problem documents
        text = str(json.loads(text)["detail"])
    return " ".join(text.split())[:300] or "nothing"
