"""Runs `scripts/presign` as a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support import PROJECT
from tests.support.stack import version_prefix

KEY = f"{version_prefix('proxied')}rootfs.squashfs"


def presign(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Return what it printed for KEY, without the settings of this machine."""
    about = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "PYTHONPATH": f"{PROJECT}/scripts:{PROJECT}/functions:{PROJECT}/infra",
    }
    keys = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK", "AWS_REGION": "eu-central-1"}
    command = (sys.executable, "-m", "cli.presign", *options, "--bucket", "images", KEY)
    return subprocess.run(
        command, env={**about, **keys, **variables}, capture_output=True, text=True, check=False, timeout=120
    )
