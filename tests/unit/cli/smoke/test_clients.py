"""Which programs count as a client."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.smoke.clients import usable
from cli.smoke.run import Skipped


def test_a_snap_or_a_script_is_not_mistaken_for_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Skipped, match="not installed"):
        usable("lxc")
    (tmp_path / "snap").write_bytes(b"\x7fELF")
    (tmp_path / "lxc").symlink_to(tmp_path / "snap")
    (tmp_path / "incus").write_text("#!/bin/sh\n")
    for program in ("lxc", "incus"):
        (tmp_path / program).chmod(0o755)
        with pytest.raises(Skipped, match="a snap or a script"):
            usable(program)
