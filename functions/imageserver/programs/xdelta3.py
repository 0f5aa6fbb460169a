"""Run xdelta3: make a delta from two files, or apply one, as a stream of bytes.

LXD and Incus call the same program to apply a delta. Secondary compression is off, because not every build of theirs
has every kind; so is the decompression of compressed inputs. xdelta3 writes the names of the files into the delta. They
are always the same, so equal files give equal bytes.
"""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imageserver.errors import ProgramFailed

BASE, TARGET, DELTA = "base", "target", "delta"
"""The names of the files, in one folder."""
CHUNK_BYTES: Final = 1 << 20
BUNDLED: Final = Path(__file__).resolve().parents[2] / "xdelta3"
"""Folder of a Lambda package with the program and its library (infra/gates/xdelta3.py)."""
_MOST_SHOWN: Final = 300


@dataclass(frozen=True, slots=True)
class Xdelta3:
    """The program at `path`. `libraries` is a folder with the libraries it needs besides the C library, if bundled."""

    path: str
    libraries: str = ""

    def encode(self, folder: Path, seconds: float) -> Iterator[bytes]:
        """Yield the delta that turns `base` into `target`, both in `folder`.

        Raise ProgramFailed if xdelta3 fails or exceeds its time, and OSError if it cannot be started.
        """
        return self._run(folder, seconds, "-e", "-S", "none", "-D", "-c", "-s", BASE, TARGET)

    def decode(self, folder: Path, seconds: float) -> Iterator[bytes]:
        """Yield the result of applying `delta` to `base`, both in `folder`. Raise ProgramFailed as `encode` does."""
        return self._run(folder, seconds, "-d", "-c", "-s", BASE, DELTA)

    def _run(self, folder: Path, seconds: float, *arguments: str) -> Iterator[bytes]:
        what = f"xdelta3 {arguments[0]}"
        environment = {"LC_ALL": "C", **({"LD_LIBRARY_PATH": self.libraries} if self.libraries else {})}
        with (folder / "stderr").open("w+b") as stderr:
            process = subprocess.Popen(  # noqa: S603  (no shell, and no word of these comes from outside)
                [self.path, *arguments], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=stderr,
            )  # fmt: skip
            with _ended(process, seconds) as late:
                assert process.stdout is not None  # noqa: S101  (opened above)
                while chunk := os.read(process.stdout.fileno(), CHUNK_BYTES):
                    yield chunk
                code = process.wait()
            if late.is_set():
                raise ProgramFailed(f"{what} took longer than {seconds:,.0f} s")
            if code:
                ending = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
                stderr.seek(0)
                lines = stderr.read().decode(errors="replace").strip().splitlines()
                last = lines[-1][:_MOST_SHOWN] if lines else "it said nothing"
                raise ProgramFailed(f"{what} {ending}: {last}")


def find_xdelta3() -> Xdelta3 | None:
    """Return the program of the Lambda package, else that of this machine; None if there is none."""
    if (BUNDLED / "xdelta3").is_file():
        return Xdelta3(str(BUNDLED / "xdelta3"), str(BUNDLED))
    found = shutil.which("xdelta3")
    return Xdelta3(found) if found else None


@contextmanager
def _ended(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """Kill a process that exceeds its time, or whose output is no longer wanted. The event is set in the first case."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(max(0.0, seconds), kill)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
