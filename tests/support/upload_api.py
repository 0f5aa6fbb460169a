"""The upload API over an S3 server of choice: the local stack's, or a real one (versitygw).

moto has neither signatures nor expiry. The local stack restates those rules, and a real implementation shows
whether the restatement is right. Functions run in worker processes as on Lambda, from the wiring of the
template; nothing is triggered by events here: `ingest` hands over what a queue would.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from local_stack.api_gateway import make_api
from local_stack.certificates import ensure_certificates
from local_stack.credentials import ACCESS_KEY, SECRET_KEY
from local_stack.interpreter import read_wiring
from local_stack.lambda_pool import Pool, common_environment
from local_stack.scheduler import Scheduler
from local_stack.servers import Server, listen
from local_stack.template import StackIdentity
from local_stack.wiring import Wiring
from tests.support import PROJECT
from tests.support.processes import free_port, need
from tests.support.servers.s3 import s3_process

REGION = "us-east-1"
PUBLISHERS = {
    "arn:aws:iam::123456789012:user/local": ["images*"],
    "arn:aws:iam::123456789012:user/team-a": ["team-a/*"],
}
REAL_S3 = "versitygw"
PRODUCT = "images/ubuntu/noble/amd64/default"
PATH = f"{PRODUCT}/20261123_10:00"
"""The published version of tests about bad input."""


@dataclass
class Answer:
    """An HTTP answer, whatever its status."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        """Return the sentence of a problem document."""
        assert self.headers["content-type"] == "application/problem+json", self.body
        return str(self.json["detail"])


def send(
    method: str,
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    ca_file: Path | None = None,
) -> Answer:
    """Send one request with exactly these headers by curl, which reads an answer that comes before the body is sent."""
    need("curl")
    with tempfile.TemporaryDirectory() as folder:
        sent, head, got = (Path(folder) / name for name in ("sent", "head", "got"))
        command = ["curl", "--silent", "--show-error", "--http1.1", "--request", method, "--max-time", "60"]
        command += ["--dump-header", str(head), "--output", str(got), "--header", "Expect:"]
        for name, value in (headers or {}).items():
            command += ["--header", f"{name}: {value}"]
        if body is not None:
            sent.write_bytes(body)
            command += ["--upload-file", str(sent)]
        command += ["--cacert", str(ca_file)] if ca_file else []
        done = subprocess.run([*command, url], capture_output=True, text=True, check=False)
        lines = head.read_text().splitlines() if head.exists() else []
        assert lines, f"no answer from {url}: {done.stderr}"
        pairs = (line.partition(":") for line in lines[1:] if ":" in line)
        found = {name.lower(): value.strip() for name, _, value in pairs}
        return Answer(int(lines[0].split()[1]), found, got.read_bytes() if got.exists() else b"")


@dataclass
class System:
    """A running upload API with the bucket behind it."""

    name: str
    api_url: str
    ca_file: Path
    endpoint: str
    bucket: str
    pool: Pool
    s3: Any

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        caller: str = "local",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request to the API. `body` is sent as JSON unless it is bytes."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        about = {"X-Local-Caller": caller, **(headers or {})} if caller else {**(headers or {})}
        return send(method, self.api_url + path, data, about, self.ca_file)

    def sign(self, path: str, content: bytes, **more: object) -> dict[str, Any]:
        """Return the answer to a request to upload `content`."""
        answer = self.ask("POST", "/uploads", {"path": path, "size": len(content), **more})
        assert answer.status == 201, answer.body
        signed: dict[str, Any] = answer.json
        return signed

    def put(self, path: str, content: bytes) -> None:
        """Upload a file as a publisher does, in one PUT."""
        signed = self.sign(path, content, multipart=False)
        answer = send("PUT", signed["url"], content, signed["headers"])
        assert answer.status == 200, answer.body

    def ingest(self, version: str) -> None:
        """Run digest and publish as the events of the version would."""
        self.invoke("DigestFunction", f"{version}/x")
        self.invoke("PublishFunction", f"versions/{version}.json")

    def invoke(self, function: str, key: str) -> None:
        event = {"Records": [{"s3": {"bucket": {"name": self.bucket}, "object": {"key": key}}}]}
        about = {"receiptHandle": "1", "attributes": {"ApproximateReceiveCount": "1"}}
        message = {"messageId": "1", "body": json.dumps(event), "eventSource": "aws:sqs", **about}
        outcome = self.pool.invoke(function, {"Records": [message]})
        assert outcome.error == "", outcome.error
        assert outcome.result == {"batchItemFailures": []}, self.pool.log_file(function).read_text()[-3000:]

    def peak_bytes(self, function: str) -> int:
        """Return the peak memory of the workers of a function."""
        peaks = [0]
        for worker in self.pool._idle[function]:
            lines = Path(f"/proc/{worker._process.pid}/status").read_text().splitlines()
            peaks += [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
        return max(peaks)

    def status(self, version: str, query: str = "") -> Any:
        answer = self.ask("GET", f"/versions/{version}{query}")
        assert answer.status == 200, answer.body
        return answer.json

    def stored(self, path: str) -> bytes | None:
        """Return the object under a key; None if there is none."""
        found = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=path).get("Contents", [])
        if path not in {item["Key"] for item in found}:
            return None
        body: bytes = self.s3.get_object(Bucket=self.bucket, Key=path)["Body"].read()
        return body


@contextlib.contextmanager
def system(name: str, folder: Path, way: Callable[[int], int] | None = None, **parameters: str) -> Iterator[System]:
    """Yield the API over `local` (moto behind the local stack's rules) or `versitygw`, on its own ports.

    `way` puts a proxy before the S3 server on a port, and returns the port that everybody then uses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    endpoint = f"http://127.0.0.1:{way(port) if way else port}"
    given = {"Publishers": json.dumps(PUBLISHERS), **parameters}
    wiring = read_wiring(PROJECT / "infra/template.yaml", given, StackIdentity("uploads", REGION), endpoint)
    bucket = wiring.bucket.name
    with contextlib.ExitStack() as closing:
        closing.enter_context(s3_server(name, port, folder))
        s3 = s3_client(endpoint)
        s3.create_bucket(Bucket=bucket)
        if changes := wiring.functions["UploadsFunction"].environment.get("CHANGES_QUEUE_URL"):
            sqs_client(endpoint).create_queue(QueueName=changes.rpartition("/")[2])
        pool = Pool(wiring.functions, common_environment(endpoint, REGION), folder, {"UploadsFunction": 4})
        closing.callback(pool.stop)
        url, ca_file = closing.enter_context(_api(wiring, pool, folder))
        yield System(name, url, ca_file, endpoint, bucket, pool, s3)


def s3_server(name: str, port: int, folder: Path) -> contextlib.AbstractContextManager[object]:
    """Return the S3 server of a name, as in `system`, on a port."""
    return s3_process(folder, port) if name == "local" else _versitygw(port, folder)


def s3_client(endpoint: str) -> Any:
    """Return a client for the S3 server at an address."""
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name=REGION, aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )  # fmt: skip


def sqs_client(endpoint: str) -> Any:
    """Return a client for moto's queues, which have the same address as its S3."""
    return boto3.client(
        "sqs", endpoint_url=endpoint, region_name=REGION, aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )  # fmt: skip


@contextlib.contextmanager
def _api(wiring: Wiring, pool: Pool, folder: Path) -> Iterator[tuple[str, Path]]:
    certificates = ensure_certificates(folder / "ca")
    sockets = listen(0)
    application = make_api(wiring.routes, pool.invoke, Scheduler((), pool.invoke, _fail), _fail)
    server = Server(application, sockets, certificates)
    server.start()
    try:
        yield f"https://localhost:{server.port}", certificates.ca_file
    finally:
        server.stop()
        for bound in sockets:
            bound.close()


def _fail(_function: str, _error: str) -> None:
    """Do nothing: the answer is 500, which fails any test that does not expect it."""


def versitygw() -> str | None:
    """Return the program of a real S3 server, if this machine has it."""
    return shutil.which(REAL_S3)


@contextlib.contextmanager
def _versitygw(port: int, folder: Path) -> Iterator[None]:
    program = versitygw()
    assert program, "versitygw is not here"
    root = folder / "objects"
    root.mkdir()
    environment = {**os.environ, "ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
    command = (program, "--port", f"127.0.0.1:{port}", "--region", REGION, "--quiet", "posix", str(root))
    with (folder / "versitygw.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for_port(port, process)
        yield
    finally:
        process.kill()
        process.wait()


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    import socket
    import time

    for _ in range(300):
        assert process.poll() is None, "the S3 server ended at once"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def completion(etags: Mapping[int, str]) -> bytes:
    """Return the body that completes a multipart upload of these parts."""
    parts = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{e}</ETag></Part>" for n, e in sorted(etags.items()))
    return f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
