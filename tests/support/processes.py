"""Programs that tests need, start and wait for. Each is always stopped."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

REQUIRE_EXTRAS = "SIMPLESTREAMS_REQUIRE_EXTRAS"
PATIENCE = 150.0
"""Seconds after which a wait fails. Generous, since machines are busy: it only ends an endless wait."""
T = TypeVar("T")


def need(*tools: str, root: bool = False) -> None:
    """Skip the calling test unless these programs are installed; under REQUIRE_EXTRAS=1 fail it instead."""
    missing = [tool for tool in tools if shutil.which(tool) is None]  # which() takes a path as well
    if root and os.geteuid() != 0:
        missing.append("root (an LXD daemon needs it)")
    if not missing:
        return
    reason = f"NOT TESTED, missing {', '.join(missing)}: install with .ci/install-extras"
    if os.environ.get(REQUIRE_EXTRAS) == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextlib.contextmanager
def peak_of(measure: Callable[[], int], every_s: float) -> Iterator[list[int]]:
    """Yield a list of one: the largest answer of `measure`, called at this interval while the block runs."""
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            peak[0] = max(peak[0], measure())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def children(parent: int) -> dict[int, list[str]]:
    """Return the running children of a process: number -> words of the command."""
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


def wait_for(look: Callable[[], T | None], what: str, patience: float = PATIENCE, pause_s: float = 0.1) -> T:
    """Return the first answer of `look` that is neither None nor False; raise TimeoutError with `what` otherwise."""
    deadline = time.monotonic() + patience
    while True:
        answer = look()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {patience:.0f} s")
        time.sleep(pause_s)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on, for a program that cannot choose one itself, or for nobody.

    Systems give ports above 32767 to outgoing connections and to those who ask for any port; such a port could be gone
    before it is used.
    """
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", secrets.choice(range(15_000, 32_000))))
            return int(probe.getsockname()[1])


@contextlib.contextmanager
def short_folder(mode: int = 0o711) -> Iterator[Path]:
    """Yield a folder directly below /tmp, which others may traverse. A unix socket's path has at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="sst-", dir="/tmp"))
    folder.chmod(mode)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def stop(process: subprocess.Popen[Any], first: signal.Signals = signal.SIGTERM, patience: float = 20) -> int:
    """End a process started with `start_new_session=True` and its whole session; kill them if they do not exit."""
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
    """Run a program to its end. With `check`, an exit code other than 0 raises AssertionError with the output."""
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


def sha256sum(paths: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of each file, by coreutils."""
    lines = run("sha256sum", "--", *paths).stdout.splitlines()
    return [line.lstrip("\\").split()[0] for line in lines]
