"""Processes of the end-to-end tests: local stack, real clients, a real LXD. Each is stopped for certain.

Nothing here knows how the server works inside. It starts `scripts/local` as a person would, uploads with
`scripts/presign` and `curl`, and looks at what is served over HTTPS.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import boto3
import pytest

from tests.support.client_rules import read_catalog

PROJECT = Path(__file__).resolve().parents[2]
REQUIRE_EXTRAS = "SIMPLESTREAMS_REQUIRE_EXTRAS"
# Generous on purpose: nothing is measured by it, it only ends a test that would wait for ever on a busy
# machine.
PATIENCE = 150.0
VARIABLES = {"lxc": "LXD", "incus": "INCUS"}
"""Client -> how the names of its project's environment variables begin."""
ARCH = {"aarch64": "arm64"}.get(platform.machine(), "amd64")
"""This machine's architecture as a key names it: containers are launched on it."""
BASE = "20261122_10:00"
VERSION = "20261123_10:00"

T = TypeVar("T")


def need(*tools: str, root: bool = False) -> None:
    """Skip the calling test, loudly, unless these programs are here;

    under REQUIRE_EXTRAS=1 fail it instead.
    """
    missing = [tool for tool in tools if shutil.which(tool) is None]  # which() takes a path as well
    if root and os.geteuid() != 0:
        missing.append("root (an LXD daemon needs it)")
    if not missing:
        return
    reason = f"NOT TESTED, missing {', '.join(missing)}: install with .ci/install-extras"
    if os.environ.get(REQUIRE_EXTRAS) == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def children(parent: int) -> dict[int, list[str]]:
    """The processes that another one started and that still run: number -> words of the command."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            its_parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        if its_parent == parent:
            found[int(entry.name)] = words
    return found


def wait_for(look: Callable[[], T | None], what: str, patience: float = PATIENCE) -> T:
    """The first answer of `look` that is neither None nor False; a TimeoutError says `what` was expected."""
    deadline = time.monotonic() + patience
    while True:
        answer = look()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {patience:.0f} s")
        time.sleep(0.1)


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def short_folder(mode: int = 0o711) -> Iterator[Path]:
    """A folder directly below /tmp (a unix socket's path has 107 bytes at most), others may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="sst-", dir="/tmp"))
    folder.chmod(mode)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def stop(process: subprocess.Popen[Any], first: signal.Signals = signal.SIGTERM, patience: float = 20) -> int:
    """End a process started with `start_new_session=True`, politely first, and all of its session."""
    if process.poll() is None:
        process.send_signal(first)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    with contextlib.suppress(ProcessLookupError):  # the whole session is gone already
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def run(
    *command: str | Path, env: Mapping[str, str] | None = None, check: bool = True, timeout: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end;

    with `check`, an exit code other than 0 is an AssertionError with all it printed.
    """
    done = subprocess.run(
        command,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


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
        """A client of the bucket behind the stack, to damage or to count what is stored."""
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
        """Status and body of one GET over HTTPS, with the stack's own authority as the only trusted one."""
        context = ssl.create_default_context(cafile=self.ca_file)
        try:
            with urllib.request.urlopen(f"{self.base_url}/{path}", context=context, timeout=30) as answer:  # noqa: S310
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def catalog(self) -> tuple[bytes, dict[str, bytes]]:
        """The index and every products document that it names, as served now."""
        status, index = self.get("streams/v1/index.json")
        if status == 404:
            return b'{"index": {}}', {}
        assert status == 200, f"streams/v1/index.json: {status}"
        documents = {}
        for entry in json.loads(index)["index"].values():
            status, documents[entry["path"]] = self.get(entry["path"])
            assert status == 200, f"{entry['path']}: {status}, though the index names it"
        return index, documents

    def presign(self, *keys: str, overwrite: bool = False) -> list[str]:
        """One presigned URL for each key, from `scripts/presign`."""
        options = ["--overwrite"] if overwrite else []
        printed = self.script("presign", *keys, *options).stdout
        urls = [word.strip("'\"") for word in printed.split() if word.strip("'\"").startswith("http")]
        urls = list(dict.fromkeys(urls))  # the curl line repeats the URL
        assert len(urls) == len(keys), f"{len(keys)} keys, but presign printed:\n{printed}"
        return urls

    def script(self, name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of `scripts/` against this stack."""
        command = (str(PROJECT / "scripts" / name), *arguments, "--state-dir", str(self.folder / "state"))
        return run(*command, check=check)

    def upload(self, prefix: str, files: Mapping[str, Path], overwrite: bool = False) -> None:
        """PUT each file below `prefix`, in the given order, with the real curl."""
        for name, url in zip(files, self.presign(*(prefix + name for name in files), overwrite=overwrite), strict=True):
            put(files[name], url)

    def shell(self, line: str, folder: Path) -> None:
        """Run one printed line in `folder`, as somebody who copies it into a terminal does."""
        done = subprocess.run(
            ("sh", "-c", line), cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert done.returncode == 0, f"{line}: exit {done.returncode}\n{done.stdout}{done.stderr}"

    def workers(self, *handlers: str) -> list[tuple[int, str]]:
        """Process number and handler of every worker of this stack that runs one of these handlers."""
        return [
            (pid, word) for pid, words in children(int(self.facts["pid"])).items() for word in words if word in handlers
        ]

    def wait_until(self, look: Callable[[], T | None], what: str, patience: float = PATIENCE) -> T:
        """`wait_for`, which ends at once when the stack does and shows the end of its log when it fails."""

        def look_while_alive() -> T | None:
            assert self.process.poll() is None, f"the stack ended:\n{self.log[-8000:]}"
            return look()

        try:
            return wait_for(look_while_alive, what, patience)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.told()}") from error

    def told(self) -> str:
        """The end of what the stack and each function said."""
        logs = [self.folder / "stack.log", *sorted((self.folder / "state").rglob("*.log"))]
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-6000:]}" for log in logs)

    def wait_until_listed(self, *fingerprints: str, client: str = "lxd", patience: float = PATIENCE) -> None:
        """Wait until the served catalog lists these fingerprints."""

        def listed() -> bool:
            return set(fingerprints) <= {image.fingerprint for image in read_catalog(*self.catalog(), client=client)}

        self.wait_until(listed, f"listing of {', '.join(f[:12] for f in fingerprints)}", patience)

    @contextlib.contextmanager
    def deaf(self) -> Iterator[None]:
        """Store objects without the stack being told:

        what bit rot, or a hand in the bucket, looks like to it.
        """
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
        """`key` holds what `damage` makes of it (None: it is gone), and the true bytes again afterwards."""
        s3 = self.s3()
        whole = s3.get_object(Bucket=self.bucket, Key=key)
        body = whole["Body"].read()
        keep = {name: whole[name] for name in ("ContentType", "CacheControl", "Metadata") if name in whole}
        broken = damage(body)
        with self.deaf():
            if broken is None:
                s3.delete_object(Bucket=self.bucket, Key=key)
            else:
                s3.put_object(Bucket=self.bucket, Key=key, Body=broken, **keep)
            try:
                yield
            finally:
                s3.put_object(Bucket=self.bucket, Key=key, Body=body, **keep)


def put(file: Path, url: str, *options: str) -> None:
    """`curl -T file url`, an AssertionError on any status that is not a success."""
    need("curl")
    run("curl", "--silent", "--show-error", "--fail-with-body", *options, "-T", file, url)


@contextlib.contextmanager
def local_stack(*options: str, code: Path | None = None, s3_port: int = 0) -> Iterator[Stack]:
    """`./scripts/local` in a state folder and on a port of its own, ready; stopped whatever happens.

    `code` is a copy of the project to run instead of this one, with this one's packages; `s3_port` is where S3 shall
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
            str(free_port()),
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


@dataclass
class Client:
    """The command-line client of either project, with a configuration of its own."""

    program: str
    env: dict[str, str]

    @property
    def home(self) -> Path:
        """The folder of the daemon that this client talks to."""
        return Path(self.env[f"{VARIABLES[self.program]}_DIR"])

    def __call__(
        self, *arguments: str | Path, check: bool = True, timeout: float = PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        return run(self.program, "--quiet", *arguments, env=self.env, check=check, timeout=timeout)

    def add_remote(self, url: str) -> None:
        """Make `here:` the server at `url` (Incus has an `images:` from the start)."""
        self("remote", "add", "here", url, "--protocol", "simplestreams")

    def images(self, what: str = "here:") -> list[dict[str, Any]]:
        """What `image list` answers, as the client's own JSON."""
        return json.loads(self("image", "list", what, "--format", "json").stdout)  # type: ignore[no-any-return]

    def fingerprints(self, what: str = "here:") -> set[str]:
        return {image["fingerprint"] for image in self.images(what)}

    def fails(self, *arguments: str | Path) -> str:
        """Run a command that must not succeed; what it complained of."""
        done = self(*arguments, check=False)
        assert done.returncode != 0, f"{self.program} {arguments} succeeded:\n{done.stdout}"
        return done.stderr


def client(program: str, folder: Path, ca_file: str, daemon: Path | None = None) -> Client:
    """`lxc` or `incus`, trusting `ca_file` and nothing else;

    `daemon` is the folder of the server it talks to.
    """
    conf = folder / f"{program}-conf"
    conf.mkdir(exist_ok=True)
    # Without a daemon the client must not look for one of the machine's own.
    nowhere = folder / "no-daemon"
    nowhere.mkdir(exist_ok=True)
    name = VARIABLES[program]
    env = {f"{name}_CONF": str(conf), f"{name}_DIR": str(daemon or nowhere), "SSL_CERT_FILE": ca_file}
    return Client(program, env | {"http_proxy": "", "https_proxy": "", "HOME": str(folder)})


def daemon_of(program: str) -> str:
    """The daemon that belongs to a client. Debian keeps Incus's where PATH does not lead."""
    return "lxd" if program == "lxc" else shutil.which("incusd") or "/usr/libexec/incus/incusd"


@contextlib.contextmanager
def running_daemon(program: str, ca_file: str) -> Iterator[Client]:
    """A real LXD (`lxc`) or Incus (`incus`) with a storage pool and a default profile, and its client."""
    with short_folder() as folder:
        home = folder / "daemon"
        home.mkdir(mode=0o711)
        home.chmod(0o711)  # whatever the umask; unprivileged containers pass through
        # LXD asks another image server for its list when it starts, which has no place in a test: a dead
        # proxy answers that at once, and this machine is reached without.
        dead = f"http://127.0.0.1:{free_port()}"
        env = {f"{VARIABLES[program]}_DIR": str(home), "SSL_CERT_FILE": ca_file, "no_proxy": "localhost,127.0.0.1"}
        env |= dict.fromkeys(("http_proxy", "https_proxy"), dead)
        with (folder / "daemon.log").open("wb") as log:
            process = subprocess.Popen(
                (daemon_of(program), "--group", "root", "--verbose"),
                stdout=log,
                stderr=log,
                env={**os.environ, **env},
                start_new_session=True,
            )
        talk = client(program, folder, ca_file, home)
        try:
            _prepare(process, talk, folder)
            yield talk
        finally:
            _tear_down(process, talk, home)


def _prepare(process: subprocess.Popen[bytes], talk: Client, folder: Path) -> None:
    def ready() -> bool:
        assert process.poll() is None, f"the daemon ended:\n{(folder / 'daemon.log').read_text()}"
        return talk("query", "/1.0", check=False).returncode == 0

    wait_for(ready, "an answer from the daemon")
    talk("storage", "create", "default", "dir")
    talk("profile", "device", "add", "default", "root", "disk", "path=/", "pool=default")


def _tear_down(process: subprocess.Popen[bytes], talk: Client, home: Path) -> None:
    """Stop the daemon's containers, the daemon, its detached forks, and unmount what it mounted."""
    with contextlib.suppress(AssertionError, subprocess.TimeoutExpired, ValueError):
        names = [instance["name"] for instance in json.loads(talk("list", "--format", "json").stdout)]
        if names:
            talk("delete", "--force", *names, timeout=60)
    stop(process)
    for pid in processes_of(home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for point in sorted(mounts_below(home), reverse=True):
        run("umount", "--lazy", point, check=False)


def processes_of(home: Path) -> list[int]:
    """Processes that left the daemon's session:

    monitors name `home` when they were started, containers live in it.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile
            started_with = (entry / "cmdline").read_bytes() + b"\0" + (entry / "environ").read_bytes()
            roots = [line.split() for line in (entry / "mountinfo").read_text().splitlines()]
            lives_in = any(fields[4] == "/" and str(home) in fields[3] for fields in roots)
            if lives_in or f"{home}".encode() in started_with:
                found.append(int(entry.name))
    return found


def mounts_below(home: Path) -> list[str]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point == str(home) or point.startswith(f"{home}/")]


def sha256sum(paths: Sequence[Path]) -> list[str]:
    """The SHA-256 of each file, by coreutils."""
    lines = run("sha256sum", "--", *paths).stdout.splitlines()
    return [line.lstrip("\\").split()[0] for line in lines]


def place(name: str, version: str = VERSION, stream: str = "images") -> str:
    """Prefix of the keys of one version of the product `alpine:<name>:<this architecture>:default`."""
    return f"{stream}/alpine/{name}/{ARCH}/default/{version}/"


@dataclass(frozen=True)
class Uploaded:
    """An image that was built and uploaded:

    where, which files, and the fingerprint that clients must arrive at.
    """

    name: str
    files: dict[str, Path]
    fingerprint: str
    is_vm: bool

    @property
    def alias(self) -> str:
        return f"here:alpine/{self.name}"

    @property
    def options(self) -> list[str]:
        """What `image info`, `copy` and `export` want to be told for this kind."""
        return ["--vm"] if self.is_vm else []
