"""`scripts/smoke` against a running local stack, with the real functions, an edge over HTTPS and the real clients."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from click.testing import CliRunner

from cli.smoke.__main__ import main
from cli.smoke.image import ALIASES, LEASE_KEY, PRODUCT
from cli.smoke.web import Web
from tests.support import PROJECT, images
from tests.support.client_rules import read_catalog
from tests.support.servers.http import served
from tests.support.stack import Stack, local_stack

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("smoke")]

FOREIGN = "images/ubuntu/noble/amd64/default/20261123_10:00"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Yield a stack that lists one image of another publisher."""
    with local_stack("--empty") as running:
        files = images.split_image(seed="foreign")
        for name, body in files.items():
            running.s3().put_object(Bucket=running.bucket, Key=f"{FOREIGN}/{name}", Body=body)
        running.wait_until_listed(images.sha256_hex(*files.values()))
        yield running


def command(stack: Stack, *arguments: str) -> tuple[str, ...]:
    return (str(PROJECT / "scripts/smoke"), "--state-dir", str(stack.folder / "state"), *arguments)


def smoke(stack: Stack, *arguments: str, code: int = 0) -> Any:
    """Run the script, which must end with this code; return what `--json` prints."""
    done = subprocess.run(
        command(stack, "--json", *arguments), capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}{done.stderr}\n{stack.log_tails()}"
    return json.loads(done.stdout)


def results(printed: Any) -> dict[str, str]:
    return {step["step"]: step["result"] for step in printed["steps"]}


def details(printed: Any) -> dict[str, str]:
    return {step["step"]: step["detail"] for step in printed["steps"]}


def left(stack: Stack) -> list[str]:
    """Return every key of a smoke test except the empty documents of its stream."""
    pages = stack.s3().get_paginator("list_objects_v2").paginate(Bucket=stack.bucket)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    return [key for key in keys if "smoke" in key and not key.startswith("streams/")]


def aliases(stack: Stack) -> set[str]:
    return {alias for found in read_catalog(*stack.catalog()) for alias in found.names}


def test_a_server_passes_the_smoke_test_with_the_real_clients_and_nothing_is_left_behind(stack: Stack) -> None:
    before = stack.get("streams/v1/images.json"), stack.get("streams/v1/index.json")
    printed = smoke(stack)
    expected = {name: "ok" if shutil.which(name) else "skipped" for name in ("lxc", "incus")} | {"function": "skipped"}
    assert {name: found for name, found in results(printed).items() if found != "ok" or name in expected} == expected
    assert details(printed)["upload"] == "by the API"
    assert (stack.get("streams/v1/images.json"), stack.get("streams/v1/index.json")) == before
    assert left(stack) == []
    doctor = stack.script("admin", "doctor", check=False)
    assert doctor.returncode == 0, doctor.stdout


def test_an_operator_that_is_not_a_publisher_signs_the_same_upload(stack: Stack) -> None:
    printed = smoke(stack, "--skip", "api", "--keep")
    assert details(printed)["upload"] == "signed with your own credentials: without the API"
    assert set(ALIASES) <= aliases(stack)
    assert details(smoke(stack))["tidy"] == f"removed {printed['version'].rpartition('/')[2]}"
    assert left(stack) == []


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Record every S3 call that this process makes or signs: operation, and key or prefix."""
    made: list[tuple[str, str]] = []
    session = boto3.Session

    def note(params: dict[str, Any], model: Any, **_: Any) -> None:
        made.append((model.name, params.get("Key") or params.get("Prefix", "")))

    def watched(*arguments: Any, **more: Any) -> boto3.Session:
        opened = session(*arguments, **more)
        opened.events.register("provide-client-params.s3.*", note)
        return opened

    monkeypatch.setattr(boto3, "Session", watched)
    return made


@contextmanager
def edge_with_wrong_bytes(stack: Stack) -> Iterator[str]:
    """Yield the address of an edge that serves everything like the stack except the last byte of each root."""

    class Edge(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Print nothing."""

        def do_GET(self) -> None:
            answer = Web(stack.ca_file).ask(stack.base_url + self.path, headers=dict(self.headers.items()))
            body = answer.body
            if self.path.endswith("rootfs.tar.xz") and answer.status == 200:
                body = body[:-1] + bytes([body[-1] ^ 1])
            self.send_response(answer.status)
            for name in ("content-type", "cache-control", "content-encoding", "content-length"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.end_headers()
            self.wfile.write(body)

    with served(Edge) as port:
        yield f"http://127.0.0.1:{port}"


def generations(stack: Stack) -> set[tuple[str, str]]:
    """Return key and generation of every object that the bucket has held, including delete markers."""
    found = set()
    for page in stack.s3().get_paginator("list_object_versions").paginate(Bucket=stack.bucket):
        for entry in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
            found.add((entry["Key"], entry["VersionId"]))
    return found


def test_wrong_bytes_at_the_edge_are_found_and_no_other_key_is_touched(
    stack: Stack, calls: list[tuple[str, str]]
) -> None:
    before = generations(stack)
    with edge_with_wrong_bytes(stack) as address:
        arguments = ["--state-dir", str(stack.folder / "state"), "--json", "--skip", "api", "--address", address]
        done = CliRunner().invoke(main, arguments)
    printed = json.loads(done.stdout)
    assert (done.exit_code, printed["left"]) == (1, False), done.output
    assert [name for name, found in results(printed).items() if found == "failed"] == ["download"]
    assert "rootfs.tar.xz has sha256" in details(printed)["download"]
    assert left(stack) == []
    own = (PRODUCT.path, PRODUCT.records_prefix, LEASE_KEY, f"streams/v1/{PRODUCT.stream}.")
    assert {key for _, key in calls if not key.startswith(own)} == set()
    assert {operation for operation, _ in calls} >= {"PutObject", "DeleteObject", "ListObjectsV2", "GetObject"}
    # Calls of the functions: their leases, and the documents of the stream.
    theirs = (*own, f"leases/{PRODUCT.path}/", f"leases/streams/{PRODUCT.stream}.json", "streams/v1/index.json")
    changed = {key for key, _ in generations(stack) - before}
    assert {key for key in changed if not key.startswith(theirs)} == set()
    assert f"streams/v1/{PRODUCT.stream}.json" in changed


def test_a_deployed_stack_is_found_by_its_name_and_reached_as_boto3_and_tls_are_configured(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code path for AWS over the local stack: CloudFormation outputs, AWS_ENDPOINT_URL, a CA in SSL_CERT_FILE."""
    facts = stack.facts
    outputs = {"BucketName": stack.bucket, "Address": stack.base_url, "ApiUrl": facts["api_url"]}
    described = {
        "StackStatus": "CREATE_COMPLETE",
        "Outputs": [{"OutputKey": key, "OutputValue": value} for key, value in outputs.items()],
        "Parameters": [{"ParameterKey": "Clients", "ParameterValue": "both"}],
    }
    real = boto3.Session

    class Session(real):  # type: ignore[valid-type,misc]  # `real` is a class at run time
        def client(self, service: str, *arguments: Any, **more: Any) -> Any:
            if service == "cloudformation":
                return SimpleNamespace(describe_stacks=lambda **_: {"Stacks": [described]})
            return super().client(service, *arguments, **more)

    monkeypatch.setattr(boto3, "Session", Session)
    monkeypatch.setenv("AWS_ENDPOINT_URL", facts["s3_endpoint"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", facts["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", facts["secret_access_key"])
    monkeypatch.setenv("SSL_CERT_FILE", stack.ca_file)
    done = CliRunner().invoke(main, ["--stack", "images", "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert details(printed)["upload"].startswith("signed with your own credentials: the API answers 403: arn:aws:iam:")
    assert left(stack) == []


def test_a_listing_that_never_comes_is_reported_and_the_upload_is_removed(stack: Stack) -> None:
    with stack.without_events():
        printed = smoke(stack, "--wait", "5", code=1)
    assert results(printed)["listed"] == "failed"
    assert "not within 5 s: no record was written: digest has not read the files" in details(printed)["listed"]
    assert (results(printed)["remove"], printed["left"], left(stack)) == ("ok", False, [])


@contextmanager
def waiting(stack: Stack) -> Iterator[subprocess.Popen[str]]:
    """Yield a smoke test that has uploaded and waits for a listing that does not come."""
    with stack.without_events():
        # A shell makes background jobs ignore SIGINT, and so might the whole test run and this process.
        usual = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(command(stack, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        signal.signal(signal.SIGINT, usual)
        try:
            uploaded = f"{PRODUCT.path}/"
            stack.wait_until(lambda: len([k for k in left(stack) if k.startswith(uploaded)]) == 2 or None, "an upload")
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_smoke_test_cleans_up_before_it_ends(stack: Stack, number: signal.Signals) -> None:
    with waiting(stack) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=180)
    assert process.returncode == 130, err
    assert "press Ctrl-C again to stop at once" in err
    assert results(json.loads(out))["listed"] == "interrupted"
    assert left(stack) == []


def test_the_image_of_a_killed_smoke_test_is_removed_by_the_next_one(stack: Stack) -> None:
    with waiting(stack) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert len(left(stack)) == 3  # two files and the lease
    assert details(smoke(stack))["tidy"].startswith("removed ")
    assert left(stack) == []
