"""Starts the parts of the local stack in order, and stops them in reverse."""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from botocore.config import Config
from botocore.exceptions import ClientError
from rich.console import Console
from starlette.types import ASGIApp

from local_stack.api_gateway import make_api
from local_stack.catalog_log import CatalogLog
from local_stack.certificates import Certificates, ensure_certificates
from local_stack.cloudfront import make_cloudfront
from local_stack.cloudfront_function import Log, Runner
from local_stack.cloudfront_logs import EdgeLogs, Logged
from local_stack.credentials import ACCESS_KEY, SECRET_KEY, local_session
from local_stack.errors import AlreadyRunning
from local_stack.event_source_mappings import Poller
from local_stack.interpreter import read_wiring
from local_stack.key_value_store import KeyValues, make_key_values
from local_stack.lambda_pool import Pool, common_environment
from local_stack.s3_process import S3Process, provision
from local_stack.scheduler import Scheduler
from local_stack.servers import LOOPBACK, Server, listen, listen_again
from local_stack.state import Stack, remove_stack
from local_stack.template import StackIdentity
from local_stack.wiring import Wiring

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
        folder = self._options.state_folder
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as started:
            # The kernel unlocks the folder when the process dies.
            lock = started.enter_context((folder / "lock").open("a"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRunning(
                    f"another local stack runs with the state folder {folder}; stop it, or choose another --state-dir"
                ) from None
            remove_stack(folder)
            logs = folder / "logs"
            shutil.rmtree(logs, ignore_errors=True)
            logs.mkdir()
            # The stack's own messages go to a file; the terminal is for arrivals and publications.
            handler = logging.FileHandler(logs / "stack.log")
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
            logging.getLogger("local_stack").addHandler(handler)
            logging.getLogger("local_stack").propagate = False
            self._closing = started
            self._start(folder, logs)
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

    def _start(self, folder: Path, logs: Path) -> None:
        sockets = listen(self._options.port)  # first, so that a port in use is reported before anything else happens
        for bound in sockets:
            self._closing.callback(bound.close)
        certificates = ensure_certificates(folder / "ca")
        ports = _Ports(folder / "ports.json")
        listener = ports.listen("s3", LOOPBACK[:1])[0]
        process, sqs = self._start_s3(listener, f"localhost:{sockets[0].getsockname()[1]}", logs)
        catalog_log = CatalogLog(self.s3, self.wiring.bucket.name, self._console)
        process.watch(catalog_log.changed)
        pool = self._start_functions(sqs, catalog_log, logs, self._options.functions_endpoint or process.endpoint)
        api_sockets = ports.listen("api")
        view_store = self._start_edge(ports, logs / EDGE_LOG, sockets, certificates)
        api = make_api(self.wiring.routes, pool.invoke, self.scheduler, catalog_log.failed)
        self._serve(api, api_sockets, certificates)
        base_url, api_url = (f"https://localhost:{s[0].getsockname()[1]}" for s in (sockets, api_sockets))
        function = self.wiring.edge.function
        self.stack = Stack(
            base_url=base_url,
            ca_file=str(certificates.ca_file),
            s3_endpoint=process.endpoint,
            bucket=self.wiring.bucket.name,
            region=REGION,
            pid=os.getpid(),
            api_url=api_url,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            view_store=view_store,
            view_store_arn=function.store_arn if function else "",
            edge_log=str(logs / EDGE_LOG) if function else "",
            logs_bucket=self.wiring.edge.logs[0] if self.wiring.edge.logs else "",
        )
        self.scheduler.start()

    def _start_s3(self, listener: socket.socket, edge: str, logs: Path) -> tuple[S3Process, Any]:
        """Start S3 and SQS and create the template's resources there. The template is read while they start."""
        process = S3Process(listener, logs / "s3.log")
        self._closing.callback(process.stop)
        self._s3_process = process
        identity = StackIdentity(STACK_NAME, REGION)
        self.wiring = read_wiring(self._options.template, self._options.parameters, identity, process.endpoint, edge)
        process.wait_until_ready()
        aws = local_session(ACCESS_KEY, SECRET_KEY, REGION)
        config = Config(
            max_pool_connections=64,
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"total_max_attempts": 2},
        )
        self.s3 = aws.client("s3", endpoint_url=process.endpoint, config=config)
        queues = Config(retries={"total_max_attempts": 2}, max_pool_connections=16)
        sqs = aws.client("sqs", endpoint_url=process.endpoint, config=queues)
        provision(self.wiring, self.s3, sqs)
        return process, sqs

    def _start_edge(self, ports: "_Ports", log: Path, sockets: list[socket.socket], certificates: Certificates) -> str:
        """Start the edge, with what the template enables of its function and its access logs.

        Return the address of the function's key value store; empty without a function.
        """
        edge, view_store, run = self.wiring.edge, "", None
        if edge.function is not None:
            store = KeyValues(edge.function.store_arn)
            bound = ports.listen("view-store")
            self._serve(make_key_values(store), bound, None)
            runner = Runner(edge.function.text, store.get, self._closing.enter_context(log_of_function(log)))
            self._closing.callback(runner.stop)
            view_store, run = f"http://localhost:{bound[0].getsockname()[1]}", runner.run
        cloudfront: ASGIApp = make_cloudfront(edge, self.wiring.bucket.name, self.s3, run)
        if edge.logs is not None:
            logs = EdgeLogs(self.s3, *edge.logs)
            logs.start()
            self._closing.callback(logs.stop)
            cloudfront = Logged(cloudfront, logs)
        self._serve(cloudfront, sockets, certificates)
        return view_store

    def _start_functions(self, sqs: Any, catalog_log: CatalogLog, logs: Path, endpoint: str) -> Pool:
        limits = self._options.limits
        pool = Pool(self.wiring.functions, common_environment(endpoint, REGION), logs, limits)
        self._closing.callback(pool.stop)
        self.scheduler = Scheduler(self.wiring.schedules, pool.invoke, catalog_log.failed)
        self._closing.callback(self.scheduler.stop)
        for mapping in self.wiring.mappings:
            if not self._options.full_windows:
                mapping = replace(mapping, window_s=min(mapping.window_s, LONGEST_WINDOW_S))
            concurrency = min(mapping.max_concurrency, limits.get(mapping.function, 1))
            poller = Poller(mapping, sqs, pool.invoke, catalog_log.failed, concurrency)
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
            noted = json.loads(file.read_text())
        except (OSError, ValueError):  # the first start, or a damaged note: any port will do
            noted = None
        entries = noted.items() if isinstance(noted, dict) else ()
        self._ports = {name: port for name, port in entries if isinstance(port, int) and 0 < port < 1 << 16}

    def listen(self, name: str, hosts: Sequence[str] = LOOPBACK) -> list[socket.socket]:
        """Return sockets that listen for each host, on the port that `name` had before if that is free."""
        sockets = listen_again(self._ports.get(name, 0), hosts)
        self._ports[name] = sockets[0].getsockname()[1]
        self._file.write_text(json.dumps(self._ports))
        return sockets


@contextlib.contextmanager
def log_of_function(file: Path) -> Iterator[Log]:
    """Yield a function that appends a line with its time, as CloudWatch Logs stores lines of CloudFront's function."""
    with file.open("a", buffering=1) as out:
        yield lambda text: out.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {text}\n")
