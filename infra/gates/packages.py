"""Packages of the functions, built for this machine: their answers, and their start times."""

import atexit
import json
import logging
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, Final
from urllib.request import Request, urlopen

from gates import bundle, stack, tools
from gates.runtime import Answer, Function, StartFailed, started
from local_stack.credentials import local_session

NAMES: Final = ("digest", "publish", "uploads", "maintain", "mirror", "copy", "delta", "redact")
KEY: Final = "images/ubuntu/noble/amd64/default/20261123_1000/rootfs.squashfs"


@cache
def scratch() -> Path:
    """Return a folder for this process only: a bench and a gate may run at once."""
    tools.CACHE.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="start-", dir=tools.CACHE))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def package(name: str) -> Path:
    """Return the folder of one function's package, built afresh once in this process."""
    folder = scratch() / name
    code = (
        "from pathlib import Path; from gates.bundle import bundle; "
        f"bundle({name!r}, Path({str(folder)!r}), for_this_machine=True)"
    )
    done = subprocess.run(
        [str(tools.python313()), "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(stack.INFRA)},
    )
    if done.returncode:
        raise StartFailed(f"{name} was not built: {done.stderr.strip()[-1000:]}")
    return folder


def interpreter() -> Path:
    """Make a python3.13 with awslambdaric and nothing else."""
    return tools.environment("runtime", tools.python313()) / "python"


QUEUES: Final = {
    "ARRIVALS_QUEUE_URL": "images-ArrivalsQueue",
    "CHANGES_QUEUE_URL": "images-ChangesQueue",
    "COPIES_QUEUE_URL": "images-CopiesQueue",
    "DELTAS_QUEUE_URL": "images-DeltasQueue",
}
"""The variables of a function that name queues, and these queues."""


@contextmanager
def storage() -> Iterator[str]:
    """Yield the address of an S3 and SQS on this machine that has the stack's bucket and queue."""
    from moto.server import ThreadedMotoServer  # here: most gates need no server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        address = f"http://{host}:{port}"
        for bucket in (variables("digest")["BUCKET"], variables("redact")["LOGS_BUCKET"]):
            urlopen(Request(f"{address}/{bucket}", method="PUT")).close()
        sqs = local_session("any", "any", stack.REGION).client("sqs", endpoint_url=address)
        for queue in QUEUES.values():
            sqs.create_queue(QueueName=queue)
        yield address
    finally:
        server.stop()


@cache
def deployed() -> stack.Stack:
    return stack.deployed(MirrorSchedule="rate(1 hour)", Views="true", Deltas="1", KeepFetchedWithinDays="30")


def variables(name: str) -> dict[str, str]:
    """Return the environment that the template gives the function."""
    function = deployed().properties(f"{name.title()}Function")
    return {key: str(value) for key, value in function["Environment"]["Variables"].items()}


@contextmanager
def running(name: str, folder: Path, address: str, **changed: str) -> Iterator[Function]:
    environment = {**variables(name), "AWS_ENDPOINT_URL": address, **changed}
    environment |= {name: f"{address}/123456789012/{queue}" for name, queue in QUEUES.items() if name in environment}
    handler = deployed().properties(f"{name.title()}Function")["Handler"]
    with started(folder, handler, interpreter(), environment) as function:
        yield function


def message(body: Mapping[str, Any], message_id: str = "m1") -> dict[str, Any]:
    """Return one record of an SQS event, as Lambda's poller hands it over."""
    return {
        "messageId": message_id,
        "receiptHandle": "r",
        "body": json.dumps(body),
        "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1795000000000"},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:eu-central-1:123456789012:q",
        "awsRegion": "eu-central-1",
    }


def upload(key: str, message_id: str = "m1") -> dict[str, Any]:
    record = {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {"object": {"key": key.replace(":", "%3A"), "eTag": "0" * 32}},
    }
    return message({"Records": [record]}, message_id)


def route(method: str, path: str) -> dict[str, Any]:
    """Return a request of the HTTP API (payload format 2.0) without a body or a caller."""
    return {
        "version": "2.0",
        "routeKey": f"{method} {path}",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "api.example.org"},
        "requestContext": {
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "gate",
            },
            "requestId": "r",
            "routeKey": f"{method} {path}",
            "stage": "$default",
            "domainName": "api.example.org",
        },
        "isBase64Encoded": False,
    }


TEST_EVENT: Final = message({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"})
RECORD_KEY: Final = f"versions/{KEY.rpartition('/')[0]}.json"
# None of these makes a request to storage, nor does the empty handler of a cold start; maintain and mirror refuse
# theirs.
FIRST_EVENT: Final[Mapping[str, dict[str, Any]]] = {
    "digest": {"Records": [TEST_EVENT]},
    "publish": {"Records": [TEST_EVENT]},
    "uploads": route("GET", "/openapi.json"),
    "maintain": {"task": "none"},
    "mirror": {"task": "none"},
    "copy": {"Records": []},
    "delta": {"Records": []},
    "redact": {"Records": [TEST_EVENT]},
}


def answers(name: str) -> Iterator[str]:
    """Yield the faults in the answers of one function's package."""
    try:
        with storage() as address:
            for what, environment, event, expected in _cases(name):
                with running(name, package(name), address, **environment) as function:
                    answer = function.invoke(event)
                    if answer.failed or not expected(answer):
                        yield f"{what}: unexpected answer {json.dumps(answer.body)[:600]}"
    except StartFailed as failure:
        yield f"does not start: {failure}"


Case = tuple[str, dict[str, str], dict[str, Any], Callable[[Answer], bool]]


def _cases(name: str) -> list[Case]:
    if name == "uploads":
        return [("its description", {}, FIRST_EVENT[name], lambda answer: bool(answer.body["statusCode"] == 200))]
    if name == "maintain":
        everything = {"task": "all", "dry_run": True}
        return [("a dry run", {}, everything, lambda answer: not answer.failed)]
    if name == "mirror":
        return [("a server that follows nobody", {}, {"task": "mirror"}, lambda answer: answer.body == {"mirrors": {}})]
    if name == "copy":
        wanted = {"mirror": "site", "path": "rootfs.squashfs", "key": KEY, "sha256": "0" * 64}
        two = {"Records": [message(wanted), message({"mirror": "site"}, "unreadable")]}
        return [("a mirror that is gone", {}, two, lambda answer: _left(answer) == ["unreadable"])]
    if name == "delta":
        unlisted = message({"changed": f"{RECORD_KEY.rpartition('/')[0]}/"})
        two = {"Records": [unlisted, message({"product": "alpine"}, "unreadable")]}
        return [("a product that is not listed", {}, two, lambda answer: _left(answer) == ["unreadable"])]
    if name == "redact":
        two = {"Records": [upload("edge/gone.gz"), message({"Records": [{}]}, "unreadable")]}
        return [("a log that is gone", {}, two, lambda answer: _left(answer) == ["unreadable"])]
    key = KEY if name == "digest" else RECORD_KEY
    two = {"Records": [{**TEST_EVENT, "messageId": "test"}, upload(key, "upload")]}
    return [
        ("S3's test event", {}, FIRST_EVENT[name], lambda answer: _left(answer) == []),
        ("a version that is gone", {}, {"Records": [upload(key)]}, lambda answer: _left(answer) == []),
        ("a bucket that is not there", {"BUCKET": "nowhere"}, two, lambda answer: _left(answer) == ["upload"]),
    ]


def _left(answer: Answer) -> list[str]:
    return [failure["itemIdentifier"] for failure in answer.body["batchItemFailures"]]


# Each function makes a client of S3 at its start; the empty handler for comparison makes the same.
EMPTY: Final = """
import boto3
from botocore.config import Config
client = boto3.client("s3", config=Config(signature_version="s3v4"))
def handler(event, context):
    return None
"""


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from the start of the process to its first answer, and of CPU that the process used."""

    wall_s: float
    cpu_s: float


def cold_start(name: str, folder: Path, address: str) -> Start:
    begin, used = time.perf_counter(), _cpu_of_children_s()
    with running(name, folder, address) as function:
        answer = function.invoke(FIRST_EVENT[name])
        wall = time.perf_counter() - begin
    if answer.failed and "the task is 'none'" not in str(answer.body):
        raise StartFailed(f"{name}: {answer.body}")
    return Start(wall, _cpu_of_children_s() - used)


def _cpu_of_children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cold_starts(name: str, rounds: int) -> dict[str, Start]:
    """Return the medians of `all_cold_starts`."""
    return {
        what: Start(median(start.wall_s for start in starts), median(start.cpu_s for start in starts))
        for what, starts in all_cold_starts(name, rounds).items()
    }


def all_cold_starts(name: str, rounds: int) -> dict[str, list[Start]]:
    """Return the variants taken in turns: as packaged, the same without bytecode, and an empty handler."""
    folder = package(name)
    bare, empty = folder.with_name(f"{name}-bare"), folder.with_name(f"{name}-empty")
    for copy in (bare, empty):
        shutil.copytree(folder, copy, dirs_exist_ok=True)
    for cached in list(bare.rglob("__pycache__")):
        shutil.rmtree(cached)
    handler = empty / bundle.handler(name)
    handler.write_text(EMPTY)
    (handler.parent / "__pycache__" / f"{name}.cpython-313.pyc").unlink(missing_ok=True)
    taken: dict[str, list[Start]] = {"packaged": [], "without bytecode": [], "empty handler": []}
    with storage() as address:
        for _ in range(rounds):
            for starts, variant in zip(taken.values(), (folder, bare, empty), strict=True):
                starts.append(cold_start(name, variant, address))
    return taken
