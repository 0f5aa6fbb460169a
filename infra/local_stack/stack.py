"""Starts the parts of the local stack in order, and stops them in reverse."""

import contextlib
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from botocore.config import Config
from botocore.exceptions import ClientError
from rich.console import Console
from starlette.types import ASGIApp

from local_stack.api import make_api
from local_stack.certificates import Certificates, ensure_certificates
from local_stack.credentials import ACCESS_KEY, SECRET_KEY, local_session
from local_stack.edge_function import Log, Run, Runner
from local_stack.edge_logs import EdgeLogs, Logged
from local_stack.errors import AlreadyRunning
from local_stack.front import make_front
from local_stack.interpreter import read_wiring
from local_stack.key_values import KeyValues, make_key_values
from local_stack.mappings import Poller
from local_stack.observer import Observer
from local_stack.processes import S3Process
from local_stack.provision import provision
from local_stack.schedules import Scheduler
from local_stack.servers import Server, free_port, listen
from local_stack.state import Stack, remove_stack
from local_stack.template import StackIdentity
from local_stack.wiring import Wiring
from local_stack.workers import Pool, common_environment

TEMPLATE: Final = Path(__file__).resolve().parent.parent / "template.yaml"
STACK_NAME: Final = "local"
REGION: Final = "us-east-1"
EDGE_LOG: Final = "edge-function.log"
LONGEST_WINDOW_S: Final = 1.0
"""Batching windows are reduced to this, so that an upload is listed in a second or two; see --full-windows."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a start. `limits` is how many workers each function may have at once; `port` 0 is any.

    `functions_endpoint` is the address that functions use for S3 and SQS if it differs, such as a proxy's.
    """

    port: int
    state_folder: Path
    parameters: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    full_windows: bool = False
    functions_endpoint: str = ""
    template: Path = TEMPLATE


class LocalStack:
    """The running system; a context manager that leaves nothing behind but the state folder."""

    def __init__(self, options: Options, console: Console) -> None:
        self._options = options
        self._console = console
        self._closing = contextlib.ExitStack()
        self.stack: Stack
        self.wiring: Wiring
        self.scheduler: Scheduler
        self.s3: Any

    def __enter__(self) -> "LocalStack":
        with contextlib.ExitStack() as started:
            self._closing = started
            self._start()
            self._closing = started.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._closing.close()

    def announce(self) -> None:
        """Write stack.json: from now on other programs find the stack."""
        self.stack.write(self._options.state_folder)
        self._closing.callback(remove_stack, self._options.state_folder)

    def check(self) -> None:
        """Raise LocalStackError if an essential part has ended."""
        self._s3_process.check()

    def lists(self, document: str, product: str, version: str) -> bool:
        """Return whether a products document of the catalog lists a version now."""
        try:
            body = self.s3.get_object(Bucket=self.stack.bucket, Key=document)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return False
            raise
        return version in json.loads(body)["products"].get(product, {}).get("versions", {})

    def _start(self) -> None:
        folder = self._options.state_folder
        folder.mkdir(parents=True, exist_ok=True)
        self._closing.enter_context(_only_one(folder))
        remove_stack(folder)
        logs = _empty(folder / "logs")
        _log_to(logs / "stack.log")
        sockets = listen(self._options.port)  # first, so that a port in use is reported before anything else happens
        for bound in sockets:
            self._closing.callback(bound.close)
        certificates = ensure_certificates(folder / "ca")
        ports = _Ports(folder / "ports.json")
        process, sqs = self._start_s3(ports.choose("s3"), f"localhost:{sockets[0].getsockname()[1]}", logs)
        observer = Observer(self.s3, self.wiring.bucket.name, self._console)
        process.watch(observer.changed)
        pool = self._start_functions(sqs, observer, logs, self._options.functions_endpoint or process.endpoint)
        api_sockets = listen(ports.choose("api"))
        view_store, run = self._start_edge_function(ports, logs / EDGE_LOG)
        front = make_front(self.wiring.edge, self.wiring.bucket.name, self.s3, run)
        self._serve(self._logged(front), sockets, certificates)
        api = make_api(self.wiring.routes, pool.invoke, self.scheduler, observer.failed)
        self._serve(api, api_sockets, certificates)
        base_url, api_url = (f"https://localhost:{s[0].getsockname()[1]}" for s in (sockets, api_sockets))
        self.stack = self._description(base_url, api_url, certificates.ca_file, process.endpoint, view_store, logs)
        self.scheduler.start()

    def _start_s3(self, port: int, edge: str, logs: Path) -> tuple[S3Process, Any]:
        """Start S3 and SQS and create the template's resources there. The template is read while they start."""
        process = S3Process(port, logs / "s3.log")
        self._closing.callback(process.stop)
        self._s3_process = process
        identity = StackIdentity(STACK_NAME, REGION)
        self.wiring = read_wiring(self._options.template, self._options.parameters, identity, process.endpoint, edge)
        process.wait_until_ready()
        self.s3, sqs = _clients(process.endpoint)
        provision(self.wiring, self.s3, sqs)
        return process, sqs

    def _start_edge_function(self, ports: "_Ports", log: Path) -> tuple[str, Run | None]:
        """Start the edge's function and its key value store; return the store's address and how to run the function."""
        code = self.wiring.edge.function
        if code is None:
            return "", None
        store = KeyValues(code.store_arn)
        bound = listen(ports.choose("view-store"))
        self._serve(make_key_values(store), bound, None)
        runner = Runner(code.text, store.get, self._closing.enter_context(log_of_function(log)))
        self._closing.callback(runner.stop)
        return f"http://localhost:{bound[0].getsockname()[1]}", runner.run

    def _logged(self, front: ASGIApp) -> ASGIApp:
        """Return the edge, with access logs if the template enables them."""
        if self.wiring.edge.logs is None:
            return front
        logs = EdgeLogs(self.s3, *self.wiring.edge.logs)
        logs.start()
        self._closing.callback(logs.stop)
        return Logged(front, logs)

    def _description(
        self, base_url: str, api_url: str, ca_file: Path, endpoint: str, view_store: str, logs: Path
    ) -> Stack:
        return Stack(
            base_url=base_url,
            ca_file=str(ca_file),
            s3_endpoint=endpoint,
            bucket=self.wiring.bucket.name,
            region=REGION,
            pid=os.getpid(),
            api_url=api_url,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            view_store=view_store,
            view_store_arn=self.wiring.edge.function.store_arn if self.wiring.edge.function else "",
            edge_log=str(logs / EDGE_LOG) if self.wiring.edge.function else "",
            logs_bucket=self.wiring.edge.logs[0] if self.wiring.edge.logs else "",
        )

    def _start_functions(self, sqs: Any, observer: Observer, logs: Path, endpoint: str) -> Pool:
        limits = self._options.limits
        pool = Pool(self.wiring.functions, common_environment(endpoint, REGION), logs, limits)
        self._closing.callback(pool.stop)
        self.scheduler = Scheduler(self.wiring.schedules, pool.invoke, observer.failed)
        self._closing.callback(self.scheduler.stop)
        for mapping in self.wiring.mappings:
            declared = mapping if self._options.full_windows else mapping.with_window(LONGEST_WINDOW_S)
            concurrency = min(mapping.max_concurrency, limits.get(mapping.function, 1))
            poller = Poller(declared, sqs, pool.invoke, observer.failed, concurrency)
            poller.start()
            self._closing.callback(poller.stop)
        return pool

    def _serve(self, application: Any, sockets: list[Any], certificates: Certificates | None) -> None:
        server = Server(application, sockets, certificates)
        server.start()
        self._closing.callback(server.stop)


class _Ports:
    """Ports that were not chosen stay the same across restarts if possible, so that saved addresses stay valid."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._ports: dict[str, int] = json.loads(file.read_text())
        except (OSError, ValueError):  # the first start, or a damaged note: any port will do
            self._ports = {}

    def choose(self, name: str) -> int:
        self._ports[name] = free_port(int(self._ports.get(name, 0)))
        self._file.write_text(json.dumps(self._ports))
        return self._ports[name]


@contextlib.contextmanager
def _only_one(folder: Path) -> Any:
    """Lock the state folder, or raise AlreadyRunning. The kernel unlocks it when the process dies."""
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(
                f"another local stack runs with the state folder {folder}; stop it, or choose another --state-dir"
            ) from None
        yield


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@contextlib.contextmanager
def log_of_function(file: Path) -> Iterator[Log]:
    """Yield a function that appends a line with its time, as CloudWatch Logs stores lines of CloudFront's function."""
    with file.open("a", buffering=1) as out:
        yield lambda text: out.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {text}\n")


def _log_to(file: Path) -> None:
    """Log the stack's own messages to a file; the terminal is for arrivals and publications."""
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.getLogger("local_stack").addHandler(handler)
    logging.getLogger("local_stack").propagate = False


def _clients(endpoint: str) -> tuple[Any, Any]:
    config = Config(
        max_pool_connections=64,
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"total_max_attempts": 2},
    )
    aws = local_session(ACCESS_KEY, SECRET_KEY, REGION)
    queues = Config(retries={"total_max_attempts": 2}, max_pool_connections=16)
    return (
        aws.client("s3", endpoint_url=endpoint, config=config),
        aws.client("sqs", endpoint_url=endpoint, config=queues),
    )
