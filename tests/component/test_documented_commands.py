"""The commands of the pages, run unchanged except that the reader's own values replace examples."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.admin.__main__ import main as admin_main
from cli.admin.errors import NOTHING
from imageserver.format.keys import parse_version
from imageserver.operations.check_results import post_result
from imageserver.storage.s3 import S3Store
from tests.support import PROJECT, documented, images
from tests.support.gpg import gpg
from tests.support.processes import need, short_folder
from tests.support.stack import Stack, local_stack

pytestmark = [pytest.mark.xdist_group("documented-commands"), pytest.mark.timeout(600)]

SCRIPTS = ("admin", "presign", "smoke", "upload")
NOBLE, CLOUD = "images/ubuntu/noble/amd64/default", "images/ubuntu/noble/amd64/cloud"
TRIXIE = "images/debian/trixie/amd64/default"
VERSION = "20261123_1000"
PRESENT = (
    f"{NOBLE}/{VERSION}",
    f"{CLOUD}/{VERSION}",
    f"{TRIXIE}/20261122_1000",
    f"{TRIXIE}/{VERSION}",
    f"images-daily/x/1/amd64/default/{VERSION}",
)


@dataclass(frozen=True)
class Reader:
    """A reader who types what a page says, in a separate clone whose scripts know one local stack."""

    stack: Stack
    folder: Path
    done: set[str] = field(default_factory=set)

    def types(self, line: str, values: Mapping[str, str], code: int = 0) -> str:
        """Run a line with values in place of the examples; return its output. Fail on another exit code."""
        for example, value in values.items():
            line = line.replace(example, value)
        if line in self.done:  # another page has it with another example
            return ""
        self.done.add(line)
        path = f"{self.folder / 'scripts'}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "REQUESTS_CA_BUNDLE": self.stack.ca_file}
        done = subprocess.run(
            ("sh", "-c", line), cwd=self.folder / "infra" if line.startswith("../") else self.folder,
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=200,
        )  # fmt: skip
        output = f"{line}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        assert done.returncode == code, f"{output}\n{self.stack.log[-2000:]}"
        return done.stdout + done.stderr


def clone_of(stack: Stack, folder: Path) -> Reader:
    """Return a folder with scripts that know the stack, like those of a clone in which it was started."""
    (folder / "infra").mkdir()
    (folder / "scripts").mkdir()
    for name in SCRIPTS:
        own = folder / "scripts" / name
        own.write_text(f'#!/bin/sh\nexec {PROJECT}/scripts/{name} --state-dir {stack.folder}/state "$@"\n')
        own.chmod(0o755)
    return Reader(stack, folder)


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with local_stack() as stack, short_folder() as folder:
        made = clone_of(stack, folder)
        for path in PRESENT:
            target = folder / "tree" / path.replace("/", "/other-", 1)
            target.mkdir(parents=True)
            for file, body in images.split_image(seed=f"other {path}").items():
                (target / file).write_bytes(body)
        yield made


@pytest.fixture(scope="module")
def follower(reader: Reader) -> Iterator[Reader]:
    """Yield a second stack that trusts the first, started as the page says."""
    put_back(reader)
    with pytest.MonkeyPatch.context() as patch, short_folder() as folder:
        patch.setenv("AWS_CA_BUNDLE", reader.stack.ca_file)
        with local_stack("--empty") as second:
            yield clone_of(second, folder)


def fingerprint(path: str) -> str:
    return images.sha256_hex(*images.split_image(seed=path).values())


def put_back(reader: Reader) -> None:
    """Restore and list every version, whatever the command before did."""
    for path in PRESENT:
        if reader.stack.get(f"{path}/lxd.tar.xz")[0] != 200:
            for file, body in images.split_image(seed=path).items():
                reader.stack.s3().put_object(Bucket=reader.stack.bucket, Key=f"{path}/{file}", Body=body)
        elif fingerprint(path) not in str(reader.stack.catalog()):
            admin(reader, "restore", path)
    reader.stack.wait_until_listed(*map(fingerprint, PRESENT))


def deleted(reader: Reader) -> None:
    for file in images.split_image(seed=PRESENT[0]):
        reader.stack.s3().delete_object(Bucket=reader.stack.bucket, Key=f"{PRESENT[0]}/{file}")
    off_the_list(reader, PRESENT[0])


def off_the_list(reader: Reader, path: str) -> None:
    gone = fingerprint(path)
    reader.stack.wait_until(lambda: gone not in str(reader.stack.catalog()), f"{path} is off the list")


def withdrawn(reader: Reader) -> None:
    admin(reader, "withdraw", PRESENT[0], "--yes")
    off_the_list(reader, PRESENT[0])


def with_a_base(reader: Reader) -> None:
    """List an older version of a product, with nearly the same root."""
    need("xdelta3")
    files = images.split_image(seed=PRESENT[0])
    files["rootfs.squashfs"] += bytes(64)
    for file, body in files.items():
        key = f"{NOBLE}/20261122_1000/{file}"
        reader.stack.s3().put_object(Bucket=reader.stack.bucket, Key=key, Body=body)
    reader.stack.wait_until_listed(images.sha256_hex(*files.values()))


def logged(reader: Reader) -> None:
    """Let the edge write a log, which takes a second."""
    bucket = str(reader.stack.facts["logs_bucket"])
    reader.stack.wait_until(
        lambda: reader.stack.s3().list_objects_v2(Bucket=bucket, Prefix="edge/").get("KeyCount"), "a log of the edge"
    )


BEFORE: dict[str, Callable[[Reader], None]] = {
    "admin undelete": deleted,
    "./scripts/admin undelete": deleted,
    "admin restore": withdrawn,
    "./scripts/admin delta": with_a_base,
    "./scripts/admin stats": logged,
    "./scripts/admin --stack images stats": logged,
}
"""How a command begins → what must happen before it is typed."""


@pytest.mark.parametrize("line", documented.script("operate"))
def test_an_operators_command_does_what_its_page_says(reader: Reader, line: str) -> None:
    put_back(reader)
    for begins, happen in BEFORE.items():
        if line.startswith(begins):
            happen(reader)
    values = {
        " --stack simplestreams": "",
        " --stack images": "",
        "/var/www/simplestreams": str(reader.folder / "tree"),
        "https://images.example.net": reader.stack.base_url,
        "https://images.example.org": reader.stack.base_url,
        "0f1a2b3c4d5e": fingerprint(PRESENT[0])[:12],
        "PATH": PRESENT[0],
        "PRODUCT": NOBLE,
    }
    output = reader.types(line, values)
    assert "Traceback" not in output
    if " withdraw " in line and "--yes" in line:
        path = TRIXIE if TRIXIE in line else NOBLE
        off_the_list(reader, f"{path}/{VERSION}")


def signed(reader: Reader) -> None:
    """Sign the server's documents as its operator would, and write the keys where a command looks for them."""
    with gpg() as keys:
        keys.make_key("operator")
        (reader.folder / "keyring.gpg").write_bytes(keys.keyring("operator"))
        index, products = reader.stack.catalog()
        for path, body in {"streams/v1/index.json": index, **products}.items():
            clear_signed = keys.clear_sign("operator", body)
            signed_path = f"{path.removesuffix('.json')}.sjson"
            reader.stack.s3().put_object(Bucket=reader.stack.bucket, Key=signed_path, Body=clear_signed)


def follows_ubuntu(line: str) -> bool:
    """Return whether a command is about the mirror that the lines before it made."""
    return any(f" mirror {verb} " in f"{line} " for verb in ("run", "show", "remove", "list"))


def added(reader: Reader) -> tuple[str, ...]:
    """Return the command that makes that mirror."""
    what = ("--only", "ubuntu:noble", "--into", "images-ubuntu", "--allow-private")
    return ("mirror", "add", "ubuntu", reader.stack.base_url, *what)


@pytest.mark.parametrize("line", documented.script("mirror"))
def test_a_command_for_a_mirror_does_what_its_page_says(reader: Reader, follower: Reader, line: str) -> None:
    source = f"{reader.stack.base_url} --allow-private"  # which a server of the internet does not need
    values = {
        " --stack simplestreams": "",
        "https://cloud-images.ubuntu.com/releases": source,
        "https://images.linuxcontainers.org": source,
        "https://images.example.net": source,
        "https://images.example.org": source,
        "https://localhost:8443": reader.stack.base_url,
        "alpine:3.22": "ubuntu:noble",
        "NAME": "ubuntu",
        "keyring.gpg": str(reader.folder / "keyring.gpg"),
        "$PWD/.local/ca/ca.pem": reader.stack.ca_file,
        "--state-dir .local/second ": "",
    }
    if "scripts/local" in line:
        return  # `follower` is started so
    admin(follower, "mirror", "remove", "ubuntu", "--keep-images", "--yes", codes=(0, NOTHING))
    if "--keyring" in line:
        signed(reader)
    if follows_ubuntu(line):
        admin(follower, *added(reader))
    follower.types(line, values)


@pytest.fixture(scope="module")
def viewing() -> Iterator[Reader]:
    """Yield a stack with views, and with two versions of a product."""
    with local_stack("--empty", "--parameter", "Views=true") as stack, short_folder() as folder:
        made = clone_of(stack, folder)
        for path in (f"{NOBLE}/20261122_1000", f"{NOBLE}/{VERSION}"):
            for file, body in images.split_image(seed=path).items():
                stack.s3().put_object(Bucket=stack.bucket, Key=f"{path}/{file}", Body=body)
            stack.wait_until_listed(fingerprint(path))
        yield made


def admin(reader: Reader, *line: str, codes: tuple[int, ...] = (0,)) -> str:
    """Run `scripts/admin` in this process, which takes a tenth of the time; return its output."""
    done = CliRunner().invoke(admin_main, [*line, "--state-dir", str(reader.stack.folder / "state")])
    assert done.exit_code in codes, f"{line}: {done.output} {done.exception}"
    return done.stdout


def post(reader: Reader, check: str) -> None:
    """Post a passed check that launched the version."""
    store, version = S3Store(reader.stack.s3(), reader.stack.bucket), parse_version(f"{NOBLE}/{VERSION}")
    tested, now = {fingerprint(version.path)}, datetime.now(UTC)
    post_result(store, version, check, passed=True, tested=tested, url="", now=now, by="ci", pause=time.sleep)


def as_before(reader: Reader, line: str) -> None:
    """Make the views that a line needs, and remove those that it makes."""
    for name in ("staging", "stable", "partner", "candidates", "fresh", "tested"):
        admin(reader, "view", "remove", name, "--anyway", "--make-public", "--yes", codes=(0, NOTHING))
    if " create " in line:
        return
    admin(reader, "view", "create", "staging", "--streams", "images-staging", "--private", "--hide")
    admin(reader, "view", "create", "stable", "--channel", "--streams", "images")
    if " mirror add " in line:
        admin(reader, "view", "create", "candidates", "--streams", "images-fresh", "--private")
        admin(reader, "view", "create", "fresh", "--streams", "images-fresh", "--channel", "--newest")
    if " token add " not in line:
        admin(reader, "view", "token", "add", "staging", "ci")
    if "promote" in line and "--require" in line:
        post(reader, "boots")
    if "--back" in line or " expire " in line:
        admin(reader, "promote", f"{NOBLE}/{VERSION}", "--to", "stable")


@pytest.mark.parametrize("line", documented.script("views"))
def test_a_command_for_a_view_does_what_its_page_says(
    viewing: Reader, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", viewing.stack.ca_file)  # for a mirror, which follows this stack itself
    as_before(viewing, line)
    values = {" --stack simplestreams": "", "NAME": "staging", "LABEL": "host", "PATH": f"{NOBLE}/{VERSION}"}
    promoted = {f"images-fresh/debian/trixie/amd64/default/{VERSION}": f"{NOBLE}/{VERSION}", "CHANNEL": "stable"}
    itself = {"https://images.example.org": f"{viewing.stack.base_url} --allow-private"}
    viewing.types(line, values | promoted | itself)


def test_a_channel_and_a_private_stream_are_served_only_at_their_own_addresses(viewing: Reader) -> None:
    as_before(viewing, "")
    stack, private = viewing.stack, f"images-staging/tiny/1/amd64/default/{VERSION}"
    for file, body in images.split_image(seed=private).items():
        stack.s3().put_object(Bucket=stack.bucket, Key=f"{private}/{file}", Body=body)
    admin(viewing, "promote", f"{NOBLE}/{VERSION}", "--to", "stable")
    made = json.loads(admin(viewing, "view", "token", "add", "staging", "host", "--json"))
    catalog = f"{made['token']}/streams/v1/images-staging.json"
    stack.wait_until(lambda: fingerprint(private) in str(stack.get(catalog)[1]), "the private view lists its image")
    tested, channel = fingerprint(f"{NOBLE}/{VERSION}"), "stable/streams/v1/images.json"
    stack.wait_until(lambda: tested in str(stack.get(channel)[1]), f"the channel lists {VERSION}")
    (signed,) = re.findall(rf"signed/[\w-]{{22}}/{private}/rootfs.squashfs", stack.get(catalog)[1].decode())
    assert stack.get(f"{made['token']}/{signed}") == (200, images.split_image(seed=private)["rootfs.squashfs"])
    for path in (f"{private}/rootfs.squashfs", signed, f"stable/{signed}", "streams/v1/images-staging.json"):
        assert stack.get(path)[0] in (401, 403, 404), path
    admin(viewing, "view", "token", "revoke", "staging", "host")
    for path in (catalog, f"{made['token']}/{signed}"):
        stack.wait_until(partial(is_closed, stack, path), f"{path} is closed")


def is_closed(stack: Stack, path: str) -> bool:
    return stack.get(path)[0] in (401, 404)


ELSEWHERE = {
    "lxc ": "e2e: a client of a daemon",
    "incus ": "e2e: a client of a daemon",
    "sudo ": "it changes the machine that the test runs on",
    "export SSL_CERT_FILE=": "each test of a real client sets it",
}
"""How a printed line that is not run here begins → why."""


def test_the_commands_that_the_local_stack_prints_work(reader: Reader) -> None:
    """Everything printed below "Serving …". Each indented line that is not a sentence is a command."""
    shown = reader.stack.log.partition("Serving ")[2].partition("openapi.json")
    lines = "".join(shown[:2]).splitlines()
    printed = [line.strip() for line in lines if line.startswith("  ") and not line.startswith("  and run ")]
    folder = reader.folder / "FOLDER"
    folder.mkdir()
    files = images.split_image(seed="printed")
    for name, body in files.items():
        (folder / name).write_bytes(body)
    ran = [line for line in printed if not line.startswith(tuple(ELSEWHERE))]
    assert [line.split()[0].rpartition("/")[2] for line in ran] == ["presign", "upload", "curl", "curl"]
    outputs = [reader.types(line, {}) for line in ran]
    for line, word in zip(outputs, ("| curl ", "alpine/3.22/amd64/default/", '"products"', '"openapi"'), strict=True):
        assert word in line
