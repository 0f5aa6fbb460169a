"""`scripts/local` as a process, used like a person would.

Nothing here knows how the server works inside. It uploads with `scripts/presign` and `curl`, and reads what is
served over HTTPS.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import boto3

from tests.support import PROJECT
from tests.support.client_rules import read_catalog
from tests.support.processes import PATIENCE, children, need, run, short_folder, stop, wait_for

ARCH = {"aarch64": "arm64"}.get(platform.machine(), "amd64")
"""This machine's architecture as a key names it: containers are launched on it."""
BASE = "20261122_10:00"
VERSION = "20261123_10:00"
T = TypeVar("T")


def version_prefix(name: str, version: str = VERSION, stream: str = "images") -> str:
    """Return the prefix of the keys of one version of the product `alpine:<name>:<this architecture>:default`."""
    return f"{stream}/alpine/{name}/{ARCH}/default/{version}/"


@dataclass
class Stack:
    """A running `scripts/local`."""

    process: subprocess.Popen[bytes]
    folder: Path
    facts: dict[str, Any]

    @property
    def base_url(self) -> str:
        return str(self.facts["base_url"])

    @property
    def ca_file(self) -> str:
        return str(self.facts["ca_file"])

    @property
    def log(self) -> str:
        return (self.folder / "stack.log").read_text(errors="replace")

    def s3(self) -> Any:
        """Return a client of the stack's bucket, to damage or count stored objects."""
        return boto3.client(
            "s3",
            endpoint_url=self.facts["s3_endpoint"],
            region_name=self.facts["region"],
            aws_access_key_id=self.facts["access_key_id"],
            aws_secret_access_key=self.facts["secret_access_key"],
        )

    @property
    def bucket(self) -> str:
        return str(self.facts["bucket"])

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of one GET over HTTPS, trusting only the stack's own authority."""
        context = ssl.create_default_context(cafile=self.ca_file)
        try:
            with urllib.request.urlopen(f"{self.base_url}/{path}", context=context, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def catalog(self) -> tuple[bytes, dict[str, bytes]]:
        """Return the index and every products document that it names, as served now."""
        status, index = self.get("streams/v1/index.json")
        if status == 404:
            return b'{"index": {}}', {}
        assert status == 200, f"streams/v1/index.json: {status}"
        documents = {}
        for entry in json.loads(index)["index"].values():
            status, documents[entry["path"]] = self.get(entry["path"])
            assert status == 200, f"{entry['path']}: {status}, though the index names it"
        return index, documents

    def presign(self, *keys: str, overwrite: bool = False) -> list[dict[str, Any]]:
        """Return one presigned upload for each key, as `scripts/presign --json` describes it."""
        options = ["--overwrite"] if overwrite else []
        uploads: list[dict[str, Any]] = json.loads(self.script("presign", "--json", *keys, *options).stdout)
        assert [upload["key"] for upload in uploads] == list(keys)
        return uploads

    def script(self, name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of `scripts/` against this stack."""
        command = (str(PROJECT / "scripts" / name), *arguments, "--state-dir", str(self.folder / "state"))
        return run(*command, check=check)

    def upload(self, prefix: str, files: Mapping[str, Path], overwrite: bool = False) -> None:
        """PUT each file below `prefix` in the given order, with the real curl."""
        uploads = self.presign(*(prefix + name for name in files), overwrite=overwrite)
        for file, upload in zip(files.values(), uploads, strict=True):
            put(file, upload)

    def shell(self, line: str, folder: Path) -> None:
        """Run one printed line in `folder`, as if copied into a terminal."""
        done = subprocess.run(
            ("sh", "-c", line), cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert done.returncode == 0, f"{line}: exit {done.returncode}\n{done.stdout}{done.stderr}"

    def workers(self, *handlers: str) -> list[tuple[int, str]]:
        """Return process number and handler of every worker of this stack that runs one of these handlers."""
        return [
            (pid, word) for pid, words in children(int(self.facts["pid"])).items() for word in words if word in handlers
        ]

    def wait_until(self, look: Callable[[], T | None], what: str, patience: float = PATIENCE) -> T:
        """Call `wait_for`. It ends at once if the stack does, and shows the end of its log on failure."""

        def look_while_alive() -> T | None:
            assert self.process.poll() is None, f"the stack ended:\n{self.log[-8000:]}"
            return look()

        try:
            return wait_for(look_while_alive, what, patience)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.log_tails()}") from error

    def log_tails(self) -> str:
        """Return the end of the log of the stack and of each function."""
        logs = [self.folder / "stack.log", *sorted((self.folder / "state").rglob("*.log"))]
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-6000:]}" for log in logs)

    def wait_until_listed(self, *fingerprints: str, client: str = "lxd", patience: float = PATIENCE) -> None:
        """Wait until the served catalog lists these fingerprints."""

        def listed() -> bool:
            return set(fingerprints) <= {image.fingerprint for image in read_catalog(*self.catalog(), client=client)}

        self.wait_until(listed, f"listing of {', '.join(f[:12] for f in fingerprints)}", patience)

    @contextlib.contextmanager
    def without_events(self) -> Iterator[None]:
        """Store objects without events, like bit rot or a manual change of the bucket."""
        s3 = self.s3()
        wiring = s3.get_bucket_notification_configuration(Bucket=self.bucket)
        wiring.pop("ResponseMetadata", None)
        s3.put_bucket_notification_configuration(Bucket=self.bucket, NotificationConfiguration={})
        try:
            yield
        finally:
            s3.put_bucket_notification_configuration(Bucket=self.bucket, NotificationConfiguration=wiring)

    @contextlib.contextmanager
    def damaged(self, key: str, damage: Callable[[bytes], bytes | None]) -> Iterator[None]:
        """Replace `key` by what `damage` makes of it (None deletes it), and restore its bytes afterwards."""
        s3 = self.s3()
        whole = s3.get_object(Bucket=self.bucket, Key=key)
        body = whole["Body"].read()
        keep = {name: whole[name] for name in ("ContentType", "CacheControl", "Metadata") if name in whole}
        tags = s3.get_object_tagging(Bucket=self.bucket, Key=key)["TagSet"]
        if tags:  # without them the edge serves no image
            keep["Tagging"] = urlencode({tag["Key"]: tag["Value"] for tag in tags})
        broken = damage(body)
        with self.without_events():
            if broken is None:
                s3.delete_object(Bucket=self.bucket, Key=key)
            else:
                s3.put_object(Bucket=self.bucket, Key=key, Body=broken, **keep)
            try:
                yield
            finally:
                s3.put_object(Bucket=self.bucket, Key=key, Body=body, **keep)


def put(file: Path, upload: Mapping[str, Any]) -> None:
    """Send a file with curl as `scripts/presign` says; raise AssertionError unless the status is a success."""
    need("curl")
    headers = [word for name, value in upload["headers"].items() for word in ("-H", f"{name}: {value}")]
    run("curl", "--silent", "--show-error", "--fail-with-body", *headers, "-T", file, upload["url"])


@contextlib.contextmanager
def local_stack(*options: str, code: Path | None = None, s3_port: int = 0) -> Iterator[Stack]:
    """Yield a ready `./scripts/local` with its own state folder and port; always stop it.

    `code` is a copy of the project to run instead of this one, with this one's packages; `s3_port` is where S3 must
    listen.
    """
    with short_folder() as folder, (folder / "stack.log").open("wb") as log:
        state = folder / "state"
        state.mkdir()
        if s3_port:
            (state / "ports.json").write_text(json.dumps({"s3": s3_port}))
        paths = [str(code / name) for name in ("scripts", "infra", "functions")] if code else []
        command = (
            *((sys.executable, "-m", "cli.local") if code else (str(PROJECT / "scripts/local"),)),
            "--port",
            "0",
            "--state-dir",
            str(state),
            *options,
        )
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"} | ({"PYTHONPATH": os.pathsep.join(paths)} if code else {})
        process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
        try:
            yield Stack(process, folder, _ready(process, state / "stack.json", folder / "stack.log"))
        finally:
            stop(process, signal.SIGINT)


def _ready(process: subprocess.Popen[bytes], facts: Path, log: Path) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        assert process.poll() is None, f"scripts/local ended with {process.returncode}:\n{log.read_text()}"
        return json.loads(facts.read_text()) if facts.exists() else None

    try:
        return wait_for(look, "stack.json")
    except TimeoutError as error:
        raise AssertionError(f"{error}\n{log.read_text()}") from error
