"""Functions in separate processes, one for each concurrent event, started when first needed."""

import json
import os
import select
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_stack.credentials import ACCESS_KEY, NO_CONFIGURATION, SECRET_KEY
from local_stack.wiring import Function

# Run as a file, without the startup files of site-packages: nothing of the local stack is importable from a function.
_PROGRAM = Path(__file__).with_name("lambda_worker.py")
_PACKAGES = [path for path in sys.path if Path(path).name == "site-packages"]

TRUST = "AWS_CA_BUNDLE"
"""Names the certificate authorities of servers that functions follow; another local stack has its own."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one invocation: its result, or `error`, "ErrorType: message"."""

    result: Any
    error: str = ""


class Worker:
    """One process of one function. Not for two threads at once."""

    def __init__(self, function: Function, environment: Mapping[str, str], log: Path) -> None:
        self._function = function
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-S", str(_PROGRAM), function.handler],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                cwd=function.code,
                start_new_session=True,  # a Ctrl-C at the terminal is for the stack, which then ends its workers
            )

    def invoke(self, event: Any) -> Outcome:
        """Run one event; kill a function that exceeds its time, as Lambda does."""
        request_id = str(uuid.uuid4())
        deadline = time.time() + self._function.timeout_s
        request = {"id": request_id, "event": event, "deadline": deadline}
        try:
            assert self._process.stdin is not None  # noqa: S101  (opened above)
            assert self._process.stdout is not None  # noqa: S101  (opened above)
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.time()))
            line = self._process.stdout.readline() if ready else None
        except OSError as error:
            return Outcome(None, f"Runtime.ExitError: the process is gone ({error})")
        if line is None:
            self.stop()
            return Outcome(None, f"Sandbox.Timedout: Task timed out after {self._function.timeout_s:.2f} seconds")
        if not line:
            self._process.wait()
            return Outcome(None, f"Runtime.ExitError: the process ended with {self._process.returncode}")
        answer = json.loads(line)
        if answer["last"]:
            self._process.wait()
        if "error" in answer:
            return Outcome(None, f"{answer['error']['errorType']}: {answer['error']['errorMessage']}")
        return Outcome(answer["result"])

    @property
    def alive(self) -> bool:
        """Whether it can take another event."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the process now."""
        self._process.kill()
        self._process.wait()


class Pool:
    """The workers of all functions. `limits` is how many of each may run at once (1 if not given)."""

    def __init__(
        self, functions: Mapping[str, Function], common: Mapping[str, str], logs: Path, limits: Mapping[str, int]
    ) -> None:
        self._functions = functions
        self._common = common
        self._logs = logs
        self._slots = {name: threading.BoundedSemaphore(limits.get(name, 1)) for name in functions}
        self._idle: dict[str, list[Worker]] = {name: [] for name in functions}
        self._all: set[Worker] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def invoke(self, name: str, event: Any) -> Outcome:
        """Run one event, after waiting for a free slot."""
        with self._slots[name]:
            worker = self._take(name)
            if worker is None:
                return Outcome(None, "Runtime.Stopped: the stack is stopping")
            outcome = worker.invoke(event)
            with self._lock:
                if worker.alive:
                    self._idle[name].append(worker)
                else:
                    self._all.discard(worker)
            return outcome

    def log_file(self, name: str) -> Path:
        """Return the file for a function's output."""
        return self._logs / f"{name}.log"

    def stop(self) -> None:
        """End every worker."""
        with self._lock:
            self._stopped = True
            workers = list(self._all)
        for worker in workers:
            worker.stop()

    def _take(self, name: str) -> Worker | None:
        with self._lock:
            if self._stopped:
                return None
            while self._idle[name]:
                worker = self._idle[name].pop()
                if worker.alive:
                    return worker
                self._all.discard(worker)
            function = self._functions[name]
            # As Lambda would set it, with the address of the local S3 and SQS.
            environment = {
                **self._common,
                **function.environment,
                "AWS_LAMBDA_FUNCTION_NAME": function.logical_id,
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),
                "LOCAL_FUNCTION_ARN": function.arn,
                "POWERTOOLS_TRACE_DISABLED": "true",  # there is no X-Ray daemon here
                "PYTHONPATH": os.pathsep.join((str(function.code), *_PACKAGES)),
            }
            worker = Worker(function, environment, self.log_file(name))
            self._all.add(worker)
            return worker


def common_environment(endpoint: str, region: str) -> dict[str, str]:
    """Return the variables that every function gets: S3 and SQS of this machine, and credentials for them."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", TRUST) if name in os.environ}
    return {
        **kept,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        **NO_CONFIGURATION,
        "PYTHONUNBUFFERED": "1",
        "TZ": "UTC",
    }
