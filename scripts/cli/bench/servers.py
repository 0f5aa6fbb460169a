"""What `bench hash` reads from: the paced stand-in for S3, and nginx where nothing is paced."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

import click
import trustme

from cli.bench.machine import own_path
from cli.bench.processes.read import MIB

START_S: Final = 10.0
# One process, so that its CPU seconds are those of one pid: an event loop around sendfile keeps ahead of any reader
# on two cores. Every path leads to the one object, as with the stand-in.
NGINX: Final = Template("""\
daemon off;
master_process off;
pid $folder/nginx.pid;
error_log $folder/nginx.log;
events { worker_connections 256; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  client_body_temp_path $folder/nginx.tmp;
  proxy_temp_path $folder/nginx.tmp;
  fastcgi_temp_path $folder/nginx.tmp;
  uwsgi_temp_path $folder/nginx.tmp;
  scgi_temp_path $folder/nginx.tmp;
  server {
    listen 127.0.0.1:$port;
    root $folder;
    location / { try_files /$name =404; }
  }
}
""")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its name in the figures, its address, and the ID of its process."""

    name: str
    address: str
    pid: int


@contextmanager
def standin(file: Path, environment: dict[str, str], **options: object) -> Iterator[Server]:
    """Yield a stand-in for S3 in a separate process."""
    arguments = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "cli.bench.processes.stand_in", "--file", str(file), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101  (opened with a pipe)
            scheme = "https" if "cert" in options else "http"
            yield Server("Python", f"{scheme}://localhost:{int(process.stdout.readline())}", process.pid)
        finally:
            process.kill()


@contextmanager
def nginx(file: Path, program: str) -> Iterator[Server]:
    """Run nginx with the file as its only object: static, by sendfile, with Range and If-Match."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = file.parent / "nginx.conf"
    settings.write_text(NGINX.substitute(folder=file.parent, name=file.name, port=port))
    command = [program, "-p", str(file.parent), "-c", str(settings)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            deadline, listens = time.monotonic() + START_S, False
            while not listens:
                if time.monotonic() >= deadline or process.poll() is not None:
                    log = file.parent / "nginx.log"
                    log_tail = log.read_text()[-1000:] if log.exists() else ""
                    raise click.ClickException(f"nginx did not start (exit status {process.poll()}): {log_tail}")
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    listens = True
                except OSError:
                    time.sleep(0.05)
            yield Server("nginx", f"http://localhost:{port}", process.pid)
        finally:
            process.kill()


def nginx_program() -> str | None:
    """Return the path of nginx. Debian installs it where only root's PATH leads."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")


@contextmanager
def fastest(file: Path, size_bytes: int, environment: dict[str, str]) -> Iterator[Server]:
    """Yield the server with the least CPU for an object of that size: nginx, or the stand-in without nginx or room.

    A Python server takes CPU from the reader's two cores, which S3 would not. It still serves whatever is paced: nginx
    limits its rate in user space, where a short range passes undelayed.
    """
    program = nginx_program()
    missing = size_bytes - file.stat().st_size
    if program and shutil.disk_usage(file.parent).free > 2 * missing:
        # nginx serves no repeated bytes: append the file's own to it until it has that size.
        with file.open("rb") as source, file.open("ab") as target:
            while (left := size_bytes - target.tell()) > 0:
                target.write(source.read(min(8 * MIB, left)))
                target.flush()  # what it wrote is read next, and a small object fits into a buffer
        with nginx(file, program) as server:
            yield server
        return
    click.echo(
        f"  served by Python: {'no room for nginx to have the object' if program else 'no nginx here'}", err=True
    )
    with standin(file, environment, repeat=size_bytes) as server:
        yield server


def own_environment(folder: Path) -> dict[str, str]:
    """Return the environment of readers and stand-ins: dummy credentials, and our own certificate authority."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return {
        **own_path(),
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_CA_BUNDLE": str(folder / "ca.pem"),
    }


def make_object(folder: Path, size_bytes: int) -> Path:
    """Return a file of random bytes."""
    target = folder / "object"
    with target.open("wb") as file:
        for start in range(0, size_bytes, 8 * MIB):
            file.write(os.urandom(min(8 * MIB, size_bytes - start)))
    return target
