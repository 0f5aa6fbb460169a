"""Real squashfs images of two trees that differ slightly, like two builds of one distribution."""

import random
import shutil
import subprocess
from pathlib import Path

import pytest

MISSING = [name for name in ("mksquashfs", "xdelta3") if not shutil.which(name)]
needs_real_pairs = pytest.mark.skipif(
    bool(MISSING), reason=f"needs {' and '.join(MISSING)}: apt install squashfs-tools xdelta3"
)
_FILES, _FILE_BYTES = 40, 5_000


def pair(folder: Path, changed: float = 0.05, size_bytes: int = _FILES * _FILE_BYTES) -> tuple[bytes, bytes]:
    """Return a squashfs of about this size, and one of the same tree with this share of its files replaced."""
    tree = folder / "tree"
    for name in range(_FILES):
        _write(tree, name, f"old {name}", size_bytes // _FILES)
    older = _squashed(tree, folder / "older.squashfs")
    for name in range(max(1, round(_FILES * changed))):
        _write(tree, name * (_FILES // max(1, round(_FILES * changed))), f"new {name}", size_bytes // _FILES)
    newer = _squashed(tree, folder / "newer.squashfs")
    shutil.rmtree(tree)
    return older, newer


def _write(tree: Path, name: int, seed: str, size_bytes: int) -> None:
    path = tree / f"usr{name % 4}" / f"file-{name:03}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(random.Random(seed).randbytes(size_bytes))


def _squashed(tree: Path, path: Path) -> bytes:
    times = ["-all-time", "1767225600", "-mkfs-time", "1767225600"]
    options = ["-comp", "xz", "-all-root", "-noappend", "-quiet", "-no-progress", "-processors", "1"]
    subprocess.run(["mksquashfs", tree, path, *times, *options], check=True, stdout=subprocess.DEVNULL)
    return path.read_bytes()
