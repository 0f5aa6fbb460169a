"""Start ministack on loopback; build the environment in which commands reach it instead of AWS."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
import trustme

from environment import find_uv, uv_settings
from gates import tools, xdelta3
from tests.support.ministack.names import EDGE, Names, served
from tests.support.ministack.packages import KEPT
from tests.support.processes import free_port, stop

ACCOUNT: Final = "111122223333"
REGION: Final = "eu-central-1"
OPERATOR: Final = ("operator", "secret of the operator")
"""Access key and secret of the account's root: the one identity that exists before anything is deployed."""
PATIENCE_S: Final = 60
CA_VARIABLES: Final = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT")


@dataclass(frozen=True)
class Emulator:
    """A running ministack. `folder` holds its log, its certificates and the tools of `environment`."""

    folder: Path
    process: subprocess.Popen[bytes]
    names: Names
    authority: trustme.CA

    @property
    def endpoint(self) -> str:
        # By its number: AWS's clients then ask for https://127.0.0.1/<bucket>, and not for a host of the bucket's name.
        return f"https://127.0.0.1:{self.names.tls_port}"

    @property
    def ca_file(self) -> Path:
        """Return a file of the roots that this machine trusts and the emulator's authority."""
        return self.folder / "trusted.pem"

    @property
    def log(self) -> str:
        return (self.folder / "emulator.log").read_text(errors="replace")

    def environment(self, who: tuple[str, str] = OPERATOR) -> dict[str, str]:
        """Return the environment of a person who uses this account with an access key and a secret.

        PATH leads to the locked `sam`, python3.13 and uv. Only host names that the emulator gives out, and those of
        the package index, resolve to anything.
        """
        bins = [self.folder / "bin", tools.environment("sam"), tools.python313().parent]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHON"))}
        return kept | {
            "PATH": os.pathsep.join([*map(str, bins), os.environ.get("PATH", os.defpath)]),
            "AWS_ENDPOINT_URL": self.endpoint,
            # boto3 prefixes this host with the account. An IP address cannot have a prefix, so use a name.
            "AWS_ENDPOINT_URL_CLOUDFRONT_KEYVALUESTORE": f"https://{EDGE[-1].removeprefix('.')}",
            "AWS_ACCESS_KEY_ID": who[0],
            "AWS_SECRET_ACCESS_KEY": who[1],
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "SAM_CLI_TELEMETRY": "0",
            xdelta3.PACKAGES: str(xdelta3.USUAL_PACKAGES),
            KEPT: str(_kept_packages()),
            **dict.fromkeys(CA_VARIABLES, str(self.ca_file)),
            **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), self.names.address),
            **dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(_reached_directly())),
        }

    def client(self, service: str, who: tuple[str, str] = OPERATOR) -> Any:
        """Return a boto3 client that talks to the emulator."""
        session: Any = boto3.Session(who[0], who[1], region_name=REGION)  # Any: the service is no literal
        return session.client(service, endpoint_url=self.endpoint, verify=str(self.ca_file))

    def status(self, url: str) -> int:
        """Return the status of one GET of an address that AWS gave out."""
        proxies = dict.fromkeys(("http", "https"), self.names.address)
        trust = ssl.create_default_context(cafile=str(self.ca_file))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=trust)
        )
        try:
            with opener.open(url, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


@functools.cache
def _kept_packages() -> Path:
    """Return a folder for the functions' packages of this run of the tests."""
    folder = Path(tempfile.mkdtemp(prefix="sst-packages-", dir="/tmp"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _reached_directly() -> list[str]:
    """Return the hosts reached directly: the emulator itself, and the package index."""
    settings = uv_settings(dict(os.environ))
    index = (settings.get(name, "") for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"))
    hosts = (urlsplit(url).hostname for urls in index for url in urls.split())
    public = ("pypi.org", "files.pythonhosted.org", "deb.debian.org", "snapshot.debian.org")
    return ["127.0.0.1", *public, *(host for host in hosts if host)]


@contextlib.contextmanager
def running(folder: Path, *, as_it_is: bool = False) -> Iterator[Emulator]:
    """Run ministack with an empty account, its answers adapted unless `as_it_is`. Nothing is left when it ends."""
    authority = _certificates(folder)
    _link_uv(folder / "bin")
    ports = Names(free_port(), free_port())
    command: list[str | Path] = [
        tools.environment("ministack", tools.python313()) / "python",
        "-P",
        Path(__file__).with_name("emulated.py"),
        *(["--as-it-is"] if as_it_is else []),
        str(ports.tls_port),
        str(ports.plain_port),
        *([folder / "server.pem"] * 2),
    ]
    with (folder / "emulator.log").open("wb") as log, served(ports) as names:
        process = subprocess.Popen(
            command, env=_own_environment(folder, names.tls_port), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        try:
            emulator = Emulator(folder, process, names, authority)
            _wait(emulator)
            yield emulator
        finally:
            stop(process, signal.SIGKILL)  # nothing of it is to be kept


def _certificates(folder: Path) -> trustme.CA:
    """Make an authority for this run, and a certificate for every name of the emulator."""
    authority = trustme.CA(organization_name="serverless-simplestreams tests")
    server = authority.issue_cert("localhost", "127.0.0.1", "*.execute-api.localhost", *(f"*{name}" for name in EDGE))
    server.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    usual = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    roots = Path(usual).read_bytes() if usual and Path(usual).is_file() else b""
    (folder / "trusted.pem").write_bytes(roots + b"\n" + authority.cert_pem.bytes())
    return authority


def _link_uv(folder: Path) -> None:
    """Put the project's uv on PATH under its usual name: `sam build` takes seconds with it, a minute with pip."""
    folder.mkdir()
    (folder / "uv").symlink_to(find_uv())


def _own_environment(folder: Path, port: int) -> Mapping[str, str]:
    """Return the environment of ministack and its functions: nothing of the tests, and the limits of a new account."""
    (folder / "tmp").mkdir()
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "TMPDIR": str(folder / "tmp"),
        "S3_DATA_DIR": str(folder / "s3"),
        "STATE_DIR": str(folder / "state"),
        "GATEWAY_PORT": str(port),
        "USE_SSL": "1",
        "MINISTACK_SSL_CERT": str(folder / "server.pem"),
        "MINISTACK_SSL_KEY": str(folder / "server.pem"),
        "AWS_CA_BUNDLE": str(folder / "trusted.pem"),
        "AUTH": "true",
        "AWS_ACCESS_KEY_ID": OPERATOR[0],
        "AWS_SECRET_ACCESS_KEY": OPERATOR[1],
        "MINISTACK_ACCOUNT_ID": ACCOUNT,
        "MINISTACK_REGION": REGION,
        "LAMBDA_EXECUTOR": "local",
        "LAMBDA_ACCOUNT_CONCURRENCY": "10",
    }


def _wait(emulator: Emulator) -> None:
    context = ssl.create_default_context(cafile=str(emulator.ca_file))
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert emulator.process.poll() is None, f"the emulator ended:\n{emulator.log[-4000:]}"
        try:
            urllib.request.urlopen(f"{emulator.endpoint}/_ministack/health", context=context, timeout=10).close()
            return
        except (urllib.error.URLError, ConnectionError) as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer of the emulator: {error}\n{emulator.log[-4000:]}") from error
            time.sleep(0.1)
