"""`scripts/local` as a process: ready when it says so, gone when stopped."""

import contextlib
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from local_stack.sample import host_architecture, sample_files
from local_stack.servers import listen
from tests.support import PROJECT
from tests.support.processes import children, need

# One worker starts the process for all of them.
pytestmark = pytest.mark.xdist_group("local-stack-process")

PATIENCE_S = 90
PRODUCT = f"hello:world:{host_architecture()}:default"


def wait_for(look: Callable[[], Any], what: str) -> Any:
    give_up = time.monotonic() + PATIENCE_S
    while not (seen := look()):
        assert time.monotonic() < give_up, f"not seen: {what}"
        time.sleep(0.05)
    return seen


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    folder: Path
    log: Path

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.folder / "stack.json").read_text())
        return facts

    def wait_until_ready(self) -> None:
        def look() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return (self.folder / "stack.json").exists()

        wait_for(look, "stack.json")

    def get(self, url: str, **headers: str) -> bytes:
        return self.ask(url, **headers)[1]

    def ask(self, url: str, **headers: str) -> tuple[Message, bytes]:
        """Return headers and body."""
        trust = ssl.create_default_context(cafile=self.facts["ca_file"])
        request = urllib.request.Request(url, headers={n.replace("_", "-"): v for n, v in headers.items()})
        with urllib.request.urlopen(request, context=trust, timeout=20) as answer:
            return answer.headers, answer.read()

    def catalog(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get(self.facts["base_url"] + "/streams/v1/images.json"))
        return found

    def children(self) -> list[int]:
        """Return the processes of this stack, found by their endpoint or port, and none of another stack."""
        return list(children(self.process.pid))


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "cli.local", *options]


def environment() -> dict[str, str]:
    folders = [str(PROJECT / name) for name in ("functions", "infra", "scripts")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}


@contextlib.contextmanager
def local(folder: Path, *options: str) -> Iterator[Running]:
    folder.mkdir(exist_ok=True)
    log = folder.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command("--port", "0", "--state-dir", str(folder), *options),
            stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment(), start_new_session=True,
        )  # fmt: skip
    try:
        yield Running(process, folder, log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with local(tmp_path_factory.mktemp("stack") / "state") as running:
        running.wait_until_ready()
        yield running


def test_a_ready_stack_lists_and_serves_its_sample(stack: Running) -> None:
    versions = stack.catalog()["products"][PRODUCT]["versions"]
    (items,) = [version["items"] for version in versions.values()]
    bodies = set(sample_files(host_architecture()).values())
    assert {stack.get(f"{stack.facts['base_url']}/{item['path']}") for item in items.values()} == bodies
    index = json.loads(stack.get(stack.facts["base_url"] + "/streams/v1/index.json"))
    assert index["index"]["images"]["products"] == [PRODUCT]


def test_images_are_served_for_a_year_the_catalog_for_a_moment_and_errors_for_no_time(stack: Running) -> None:
    url, (key, *_) = stack.facts["base_url"], sample_files(host_architecture())
    assert stack.ask(f"{url}/{key}")[0]["Cache-Control"] == "public, max-age=31536000, immutable"
    for path in ("", "streams/v1/images.json", "streams/v1/index.json"):
        assert stack.ask(f"{url}/{path}")[0]["Cache-Control"] == "public, max-age=30"
    for path in (f"{key}.missing", "streams/v1/missing.json", "missing"):
        with pytest.raises(urllib.error.HTTPError) as missing:
            stack.ask(f"{url}/{path}")
        assert (missing.value.code, missing.value.headers["Cache-Control"]) == (404, None)


def test_the_stack_logs_each_upload_and_publication_in_one_line(stack: Running) -> None:
    log = stack.log.read_text()
    for pattern in (
        r"^ +arrived  images/hello/world/.*/lxd\.tar\.xz \(\d+ B\)$",
        r"^ +complete  images/hello/world/",
        r"^ +published  /streams/v1/images\.json \(1 product, 1 version, .*\)$",
    ):
        assert re.search(pattern, log, re.MULTILINE), log
    assert f"lxc remote add mine {stack.facts['base_url']} --protocol=simplestreams" in log
    assert f"incus remote add mine {stack.facts['base_url']} --protocol=simplestreams" in log


def test_the_printed_curl_line_uploads_from_another_folder(stack: Running, tmp_path: Path) -> None:
    need("curl")
    folder = f"images/hello/there/{host_architecture()}/default/20261123_10:00"
    for key, body in sample_files(host_architecture()).items():
        name = key.rsplit("/", 1)[1]
        (tmp_path / name).write_bytes(body)
        printed = subprocess.run(
            [sys.executable, "-m", "cli.presign", f"{folder}/{name}", "--state-dir", str(stack.folder)],
            capture_output=True, text=True, check=True, cwd=tmp_path, env=environment(),
        ).stdout  # fmt: skip
        (line,) = [line for line in printed.splitlines() if "| curl " in line]
        subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True, capture_output=True)
        again = subprocess.run(["sh", "-c", line], cwd=tmp_path, check=False, capture_output=True, text=True)
        assert again.returncode != 0
        assert "PreconditionFailed" in again.stdout
    # Both names list the same bytes: the first product by name keeps the image, the other is reported.
    wait_for(lambda: "hello/there" in stack.log.read_text(), "the second version's record")


def test_a_url_without_overwrite_never_replaces_a_file(stack: Running, tmp_path: Path) -> None:
    key = "images/once/1/amd64/default/20261123/rootfs.squashfs"
    printed = subprocess.run(
        [sys.executable, "-m", "cli.presign", key, "--json", "--state-dir", str(stack.folder)],
        capture_output=True, text=True, check=True, env=environment(),
    )  # fmt: skip
    (upload,) = json.loads(printed.stdout)
    assert "X-Amz-SignedHeaders=cache-control%3Bhost%3Bif-none-match" in upload["url"]
    answers = []
    for body in (b"first", b"second"):
        request = urllib.request.Request(upload["url"], data=body, method="PUT", headers=upload["headers"])
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                answers.append(answer.status)
        except urllib.error.HTTPError as refusal:
            answers.append(refusal.code)
    assert answers == [200, 412]


def test_the_api_knows_its_caller(stack: Running) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        stack.get(stack.facts["api_url"] + "/versions/images/hello")
    assert refused.value.code == 403
    with pytest.raises(urllib.error.HTTPError) as missing:
        stack.get(stack.facts["api_url"] + "/nothing", x_local_caller="local")
    assert missing.value.code == 404


def test_a_second_stack_with_the_same_state_folder_is_refused(stack: Running) -> None:
    done = subprocess.run(
        command("--port", "0", "--state-dir", str(stack.folder)), capture_output=True, text=True, check=False,
        env=environment(),
    )  # fmt: skip
    assert done.returncode == 5
    assert "another local stack runs" in done.stderr
    assert stack.facts["pid"] == stack.process.pid


def test_two_concurrent_stacks_do_not_mix(stack: Running, tmp_path: Path) -> None:
    with local(tmp_path / "other", "--empty") as other:
        other.wait_until_ready()
        assert other.facts["base_url"] != stack.facts["base_url"]
        assert other.facts["s3_endpoint"] != stack.facts["s3_endpoint"]
        with pytest.raises(urllib.error.HTTPError):  # no sample there
            other.catalog()
        assert stack.catalog()["products"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--parameter", "NoSuch=1"), 3, "the template has no parameter NoSuch"),
        (("--parameter", "DigestTimeout=7"), 3, "DigestTimeout is '7', expected one of 5, 15"),
        (("--parameter", "nothing"), 2, "is not Name=Value"),
    ],
)
def test_a_failed_start_is_reported_in_one_sentence(
    tmp_path: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    done = subprocess.run(
        command("--port", "0", "--state-dir", str(tmp_path), *options), capture_output=True, text=True, check=False,
        env=environment(),
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert message in done.stderr


def test_a_port_in_use_is_reported_in_one_sentence(tmp_path: Path) -> None:
    taken = listen(0)
    port = taken[0].getsockname()[1]
    try:
        done = subprocess.run(
            command("--port", str(port), "--state-dir", str(tmp_path)), capture_output=True, text=True, check=False,
            env=environment(),
        )  # fmt: skip
    finally:
        for bound in taken:
            bound.close()
    assert done.returncode == 4
    assert f"port {port} is in use" in done.stderr
    assert not (tmp_path / "stack.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_however_the_stack_ends_its_processes_end_too(tmp_path: Path, number: signal.Signals) -> None:
    with local(tmp_path / "state") as running:
        running.wait_until_ready()
        children = running.children()
        assert len(children) >= 3  # S3, digest, publish
        authority = Path(running.facts["ca_file"]).read_bytes()
        running.process.send_signal(number)
        code = running.process.wait(timeout=PATIENCE_S)
        assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)
        wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children), "the end of all children")
        if number != signal.SIGKILL:
            assert not (tmp_path / "state/stack.json").exists()
        assert (tmp_path / "state/ca/ca.pem").read_bytes() == authority


def test_a_stack_that_loses_its_s3_reports_that_and_ends(tmp_path: Path) -> None:
    with local(tmp_path / "state", "--empty") as running:
        running.wait_until_ready()
        (s3,) = [pid for pid in running.children() if "local_stack.s3" in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(s3, signal.SIGKILL)
        assert running.process.wait(timeout=PATIENCE_S) == 1
        assert "S3 ended with -9" in running.log.read_text()
        assert not (tmp_path / "state/stack.json").exists()
