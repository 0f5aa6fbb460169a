"""Starts a built function as Lambda does: only its folder, AWS's own runtime client, and a stub of the Runtime API.

The API is four calls (docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html): the client asks for the next invocation
and posts its response or its error, or an error of its start.
"""

import json
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Final

TIMEOUT_S: Final = 60


class StartFailed(Exception):
    """The function gave no answer; the message has its error report or output."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one event. `failed` is True for an error of the handler; `body` is then its description."""

    failed: bool
    body: Any


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    events: ClassVar[queue.Queue[Any]]
    answers: ClassVar[queue.Queue[Answer | StartFailed]]

    def do_GET(self) -> None:
        event = json.dumps(self.events.get()).encode()
        self.send_response(200)
        self.send_header("Lambda-Runtime-Aws-Request-Id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd")
        self.send_header("Lambda-Runtime-Trace-Id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0")
        self.send_header("Lambda-Runtime-Deadline-Ms", str(int((time.time() + TIMEOUT_S) * 1000)))
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-central-1:123456789012:function:x")
        self.send_header("Content-Type", "application/json")  # without it awslambdaric dies with a segmentation fault
        self.send_header("Content-Length", str(len(event)))
        self.end_headers()
        self.wfile.write(event)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"null")
        if self.path.endswith("/init/error"):
            self.answers.put(StartFailed(f"{body.get('errorType')}: {body.get('errorMessage')}"))
        else:
            self.answers.put(Answer(self.path.endswith("/error"), body))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing: the function's own output is what matters."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Report nothing: each function is killed at its end, which resets the connection that it waited on."""


class Function:
    """A started function."""

    def __init__(self, api: type[_Api], process: "subprocess.Popen[str]", output: Path) -> None:
        self._api, self._process, self._output = api, process, output

    def invoke(self, event: object) -> Answer:
        """Send one event and wait for its answer. Raise StartFailed if the function did not start."""
        self._api.events.put(event)
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                answer = self._api.answers.get(timeout=0.2)
            except queue.Empty:
                if self._process.poll() is not None:
                    break
                continue
            if isinstance(answer, StartFailed):
                raise answer
            return answer
        raise StartFailed(f"no answer (exit status {self._process.poll()}):\n{self.output()[-2000:]}")

    def output(self) -> str:
        return self._output.read_text()


@contextmanager
def started(folder: Path, handler: str, python: Path, variables: Mapping[str, str]) -> Iterator[Function]:
    """Run `handler` of the package in `folder`. `python` must have awslambdaric, and nothing that a package needs.

    The environment is Lambda's plus `variables`, without this machine's: a function that needs these does not start.
    """
    api = type("Api", (_Api,), {"events": queue.Queue(), "answers": queue.Queue()})
    server = _Server(("127.0.0.1", 0), api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}",
        "AWS_LAMBDA_FUNCTION_NAME": handler.split(".", 1)[0],
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769",
        "AWS_LAMBDA_LOG_FORMAT": "JSON",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "LAMBDA_TASK_ROOT": str(folder),
        "PATH": os.defpath,
        "PYTHONDONTWRITEBYTECODE": "1",  # /var/task is read-only
        **variables,
    }
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "output"
        with output.open("w") as sink:
            command = [str(python), "-m", "awslambdaric", handler]
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=sink, stderr=subprocess.STDOUT, text=True
            )
        try:
            yield Function(api, process, output)
        finally:
            process.kill()
            process.wait()
            server.shutdown()
            server.server_close()
