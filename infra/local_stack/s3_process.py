"""The child process that plays S3 and SQS, seen from the stack, and the resources of the wiring there."""

import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from local_stack.credentials import NO_CONFIGURATION
from local_stack.errors import LocalStackError
from local_stack.wiring import Wiring

READY_S: Final = 60


class S3Process:
    """moto with our rules, on a loopback port. `changed` is called for each change of an object, in a single thread.

    The process takes over the socket that listens, so that no other program can take the port while it starts.
    """

    def __init__(self, listener: socket.socket, log: Path) -> None:
        self._log = log
        self.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        infra = Path(__file__).resolve().parent.parent
        # Without any settings for AWS, neither by variables nor by files.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        with listener, log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "local_stack.s3", str(listener.fileno())],
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,  # closed when this process dies, for any reason; the child then ends too
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**kept, **NO_CONFIGURATION, "PYTHONPATH": str(infra)},
                start_new_session=True,
            )
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()

        def read() -> None:
            assert self._process.stdout is not None  # noqa: S101  (opened above)
            for line in self._process.stdout:
                self._lines.put(json.loads(line))
            self._lines.put(None)

        threading.Thread(target=read, daemon=True).start()

    def wait_until_ready(self) -> None:
        """Return when it answers. Raise LocalStackError if it ends or takes a minute."""
        try:
            first = self._lines.get(timeout=READY_S)
        except queue.Empty:
            first = None
        if first is None:
            raise LocalStackError(f"S3 did not start; its log is {self._log}:\n{_tail(self._log)}")

    def watch(self, changed: Callable[[dict[str, Any]], None]) -> None:
        """Call `changed` for each change from now on, in a thread."""

        def pump() -> None:
            while (line := self._lines.get()) is not None:
                changed(line)

        threading.Thread(target=pump, name="changes", daemon=True).start()

    def check(self) -> None:
        """Raise LocalStackError if the process has ended by itself."""
        if self._process.poll() is not None:
            code = self._process.returncode
            raise LocalStackError(f"S3 ended with {code}; its log is {self._log}:\n{_tail(self._log)}")

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-10:])


def provision(wiring: Wiring, s3: Any, sqs: Any) -> None:
    """Make queues first, since a bucket's notifications name them; `s3` and `sqs` are boto3 clients."""
    for each in sorted(wiring.queues, key=lambda q: bool(q.dead_letters_arn)):  # dead letters first
        attributes = {"VisibilityTimeout": str(each.visibility_s)}
        if each.dead_letters_arn:
            policy = {"deadLetterTargetArn": each.dead_letters_arn, "maxReceiveCount": each.max_receive_count}
            attributes["RedrivePolicy"] = json.dumps(policy)
        sqs.create_queue(QueueName=each.name, Attributes=attributes)
    # us-east-1 is the only region that S3 does not accept as a constraint.
    place = {"LocationConstraint": wiring.region}
    where = {} if wiring.region == "us-east-1" else {"CreateBucketConfiguration": place}
    for bucket in wiring.buckets:
        s3.create_bucket(Bucket=bucket.name, **where)
        if bucket.versioned:
            s3.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"})
        if bucket.notifications:
            configurations = [
                {
                    "QueueArn": n.queue_arn,
                    "Events": [n.event],
                    "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": n.prefix}]}},
                }
                for n in bucket.notifications
            ]
            s3.put_bucket_notification_configuration(
                Bucket=bucket.name, NotificationConfiguration={"QueueConfigurations": configurations}
            )
