"""Ingest one hostile file in its own process: `python -m tests.hostile.measure NAME`; prints JSON.

The process may use MEMORY_BYTES of address space and CPU_SECONDS: the kernel stops it beyond them.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from imageserver.versions import records
from tests.hostile.files import CASES
from tests.support.memory_store import System

MEMORY_BYTES = 1769 << 20  # of digest, as in the template
CPU_SECONDS = 60
PATH = "images/ubuntu/noble/amd64/default/20261123_10:00"


def status_kib(name: str) -> int:
    """Return a value such as VmRSS or VmHWM (the peak). Not ru_maxrss, which starts from that of the parent."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0])


def start_peak() -> int:
    """Reset VmHWM; return the memory in use now, including the hostile file, in KiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_kib("VmRSS")


def main() -> None:
    case = CASES[sys.argv[1]]
    body = case.make()
    before = resource.getrusage(resource.RUSAGE_SELF)
    held_kib = start_peak()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (int(before.ru_utime) + CPU_SECONDS, int(before.ru_utime) + CPU_SECONDS))
    system = System()
    from tests.support import images  # a good image beside it must not suffer

    good = images.split_image(root="root.tar.xz" if case.file != "root.tar.xz" else "rootfs.squashfs")
    if case.file != "lxd.tar.xz":
        good["incus.tar.xz"] = good.pop("lxd.tar.xz")
    system.upload(PATH, {**good, case.file: body})
    record = system.ingest(PATH).record
    assert record is not None
    after = resource.getrusage(resource.RUSAGE_SELF)
    answer = {
        "state": record.state,
        "reasons_without_fault": [r.sentence for r in record.reasons if r.kind == "error" and not r.fault],
        "sentences": [r.sentence for r in record.reasons if r.file == case.file],
        "record_bytes": len(records.encode(record)),
        "seconds": round(after.ru_utime - before.ru_utime, 2),
        "peak_mib": round((status_kib("VmHWM") - held_kib) / 1024, 1),
        "process_mib": round(status_kib("VmHWM") / 1024, 1),
        "file_bytes": len(body),
    }
    sys.stdout.write(json.dumps(answer))


main()
