"""`scripts/upload` and its credentials: signatures as AWS checks them, and bearer tokens."""

from __future__ import annotations

import re
import subprocess
from http.server import ThreadingHTTPServer
from pathlib import Path

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.support import PROJECT
from tests.support.servers.recording_api import VERSION, RecordingApi, upload
from tests.support.upload_script import SCRIPT, environment

CREDENTIALS = Credentials("AKIAEXAMPLE", 's3cr"et\\/+=', "a/session+token==")


def test_requests_are_signed_as_aws_checks_them(listener: ThreadingHTTPServer, tmp_path: Path) -> None:
    """botocore repeats the signature of the received request, as API Gateway would, also for a path with a colon."""
    who = {"AWS_ACCESS_KEY_ID": CREDENTIALS.access_key, "AWS_SECRET_ACCESS_KEY": CREDENTIALS.secret_key}
    done = upload(listener, tmp_path, **who, AWS_SESSION_TOKEN=str(CREDENTIALS.token), AWS_REGION="eu-central-1")
    assert (done.returncode, done.stdout) == (0, "lxc launch mine:signed/one\n"), done.stderr
    assert [(method, path.split("?")[0]) for method, path, _, _ in RecordingApi.seen] == [
        ("POST", "/uploads/batch"),
        ("GET", f"/versions/{VERSION.replace(':', '~')}"),
    ]
    for method, path, headers, body in RecordingApi.seen:
        sent = {name.lower(): value for name, value in headers.items()}
        assert sent["x-amz-security-token"] == CREDENTIALS.token
        assert sent["authorization"] == _signature(method, path, sent, body)


def _signature(method: str, path: str, sent: dict[str, str], body: bytes) -> str:
    found = re.search(
        r"Credential=[^/]+/(\d+)/([^/]+)/([^/]+)/aws4_request, SignedHeaders=([^,]+)", sent["authorization"]
    )
    assert found, sent["authorization"]
    _, region, service, names = found.groups()
    assert (region, service) == ("eu-central-1", "execute-api")
    signed = {name: sent[name] for name in names.split(";")}
    request = AWSRequest(method, f"http://{sent['host']}{path}", headers=signed, data=body)
    request.context["timestamp"] = sent["x-amz-date"]
    signer = SigV4Auth(CREDENTIALS, service, region)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    return (
        f"AWS4-HMAC-SHA256 Credential={CREDENTIALS.access_key}/{signer.credential_scope(request)}, "
        f"SignedHeaders={names}, Signature={signer.signature(text, request)}"
    )


def test_a_token_is_sent_as_a_bearer(listener: ThreadingHTTPServer, tmp_path: Path) -> None:
    assert upload(listener, tmp_path, SIMPLESTREAMS_TOKEN="a.b.c").returncode == 0
    assert {headers["Authorization"] for _, _, headers, _ in RecordingApi.seen} == {"Bearer a.b.c"}


def test_the_step_that_boots_takes_no_end_of_a_line_for_a_part_of_a_token(
    listener: ThreadingHTTPServer, tmp_path: Path
) -> None:
    api = f"http://127.0.0.1:{listener.server_address[1]}\r"
    done = subprocess.run(
        (PROJECT / "infra/action/boots/boots.sh", "--path", VERSION, "--remote", "mine", "--api", api),
        env=environment(tmp_path, SIMPLESTREAMS_TOKEN="a.b.c\r\n"), capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert (done.returncode, f"{VERSION} is not listed" in done.stderr) == (3, True), done.stderr
    assert [headers["Authorization"] for _, _, headers, _ in RecordingApi.seen] == ["Bearer a.b.c"]


def test_a_github_job_asks_for_its_own_token(listener: ThreadingHTTPServer, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{listener.server_address[1]}/token?api-version=2"
    job = {"ACTIONS_ID_TOKEN_REQUEST_URL": url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "job"}
    assert upload(listener, tmp_path, **job, SIMPLESTREAMS_AUDIENCE="images").returncode == 0
    asked = [(path, headers["Authorization"]) for _, path, headers, _ in RecordingApi.seen if path.startswith("/token")]
    assert asked[0] == ("/token?api-version=2&audience=images", "bearer job")
    others = {headers["Authorization"] for _, path, headers, _ in RecordingApi.seen if not path.startswith("/token")}
    assert others == {"Bearer a.github.token"}


def test_a_github_that_is_busy_is_asked_again_and_one_that_refuses_is_quoted(
    listener: ThreadingHTTPServer, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{listener.server_address[1]}/token?api-version=2"
    job = {"ACTIONS_ID_TOKEN_REQUEST_URL": url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "job"}
    RecordingApi.once["/token"] = (503, "busy")
    assert upload(listener, tmp_path, **job, SIMPLESTREAMS_AUDIENCE="images").returncode == 0
    RecordingApi.answers["/token"] = (403, "no")
    done = upload(listener, tmp_path, **job, SIMPLESTREAMS_AUDIENCE="images")
    assert (done.returncode, done.stdout) == (7, "")
    assert re.fullmatch(
        r"upload: GitHub gave no token \(curl: .*403.*\); the job needs `permissions: .*`\n", done.stderr
    )


def test_no_process_has_a_secret_in_its_arguments() -> None:
    text = SCRIPT.read_text()
    assert not re.search(r"curl[^\n]*(--user|-u) ", text)
    assert "umask 077" in text
