"""One measured run of a way to do something, or of plain JSON beside it, in a separate process."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cli.bench.processes.read import peak_mib


def run(prepare: Callable[[int, Path], int], ways: Mapping[str, Callable[[Path], int]]) -> None:
    """Print what the command line asks for.

    `prepare FOLDER VERSIONS` prints the size of the document that it writes there. `WAY FOLDER` prints CPU seconds,
    peak memory and the result of that way.
    """
    if sys.argv[1] == "prepare":
        print(prepare(int(sys.argv[3]), Path(sys.argv[2])))
        return
    begin = time.process_time()
    result = ways[sys.argv[1]](Path(sys.argv[2]))
    print(json.dumps({"cpu_s": time.process_time() - begin, "peak_mib": peak_mib(), "result": result}))
