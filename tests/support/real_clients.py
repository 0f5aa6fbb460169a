"""The real `lxc` and `incus`, with or without their own daemon."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import PATIENCE, free_port, run, short_folder, stop, wait_for

VARIABLES = {"lxc": "LXD", "incus": "INCUS"}
"""Client -> prefix of its project's environment variables."""


@dataclass
class Client:
    """The command-line client of either project, with its own configuration."""

    program: str
    env: dict[str, str]

    @property
    def home(self) -> Path:
        """Return the folder of the daemon that this client talks to."""
        return Path(self.env[f"{VARIABLES[self.program]}_DIR"])

    def __call__(
        self, *arguments: str | Path, check: bool = True, timeout: float = PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        return run(self.program, "--quiet", *arguments, env=self.env, check=check, timeout=timeout)

    def add_remote(self, url: str) -> None:
        """Make `here:` the server at `url` (Incus has an `images:` from the start)."""
        self("remote", "add", "here", url, "--protocol", "simplestreams")

    def images(self, what: str = "here:") -> list[dict[str, Any]]:
        """Return the answer of `image list`, as the client's own JSON."""
        return json.loads(self("image", "list", what, "--format", "json").stdout)  # type: ignore[no-any-return]  # JSON

    def fingerprints(self, what: str = "here:") -> set[str]:
        return {image["fingerprint"] for image in self.images(what)}

    def marker(self, instance: str) -> str:
        """Return the text of /etc/marker in an instance.

        `exec` may lose the output of a program that ends at once: seen with Incus 6.0.4 on a busy machine. So an empty
        answer is asked for again.
        """
        answers = (self("exec", instance, "--", "cat", "/etc/marker").stdout for _ in range(5))
        return next(filter(None, answers), "")

    def fails(self, *arguments: str | Path) -> str:
        """Run a command that must fail; return its error output."""
        done = self(*arguments, check=False)
        assert done.returncode != 0, f"{self.program} {arguments} succeeded:\n{done.stdout}"
        return done.stderr


def client(program: str, folder: Path, ca_file: str, daemon: Path | None = None) -> Client:
    """Return `lxc` or `incus` with `ca_file` as its only authority and `daemon` as the folder of its server."""
    conf = folder / f"{program}-conf"
    conf.mkdir(exist_ok=True)
    # Without a daemon the client must not look for one of this machine.
    nowhere = folder / "no-daemon"
    nowhere.mkdir(exist_ok=True)
    name = VARIABLES[program]
    env = {f"{name}_CONF": str(conf), f"{name}_DIR": str(daemon or nowhere), "SSL_CERT_FILE": ca_file}
    return Client(program, env | {"http_proxy": "", "https_proxy": "", "HOME": str(folder)})


def daemon_of(program: str) -> str:
    """Return the daemon that belongs to a client. Debian installs Incus's outside PATH."""
    return "lxd" if program == "lxc" else shutil.which("incusd") or "/usr/libexec/incus/incusd"


@contextlib.contextmanager
def running_daemon(program: str, ca_file: str, https_proxy: str = "") -> Iterator[Client]:
    """Yield the client of a real LXD (`lxc`) or Incus (`incus`) with a storage pool and a default profile.

    Without `https_proxy` it reaches only loopback.
    """
    with short_folder() as folder:
        home = folder / "daemon"
        home.mkdir(mode=0o711)
        home.chmod(0o711)  # despite the umask; unprivileged containers traverse it
        # LXD asks another image server for its list when it starts. A test must not do that: a dead
        # proxy refuses it at once, and this machine is reached without a proxy.
        dead = f"http://127.0.0.1:{free_port()}"
        env = {
            f"{VARIABLES[program]}_DIR": str(home),
            "SSL_CERT_FILE": ca_file,
            "no_proxy": "localhost,127.0.0.1",
            "https_proxy": https_proxy or dead,
            "http_proxy": "" if https_proxy else dead,
        }
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
    """Stop the daemon's containers, the daemon and its detached forks, and unmount what it mounted."""
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
    """Return processes that left the daemon's session: monitors started with `home`, and containers inside it."""
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


@dataclass(frozen=True)
class Uploaded:
    """An image that was built and uploaded. `fingerprint` is the one that clients must compute."""

    name: str
    files: dict[str, Path]
    fingerprint: str
    is_vm: bool

    @property
    def alias(self) -> str:
        return f"here:alpine/{self.name}"

    @property
    def options(self) -> list[str]:
        """Return the options of `image info`, `copy` and `export` for this kind."""
        return ["--vm"] if self.is_vm else []
