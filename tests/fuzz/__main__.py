"""Coverage-guided fuzzing: `.venv/bin/python -m tests.fuzz TARGET SECONDS` (dependency group `fuzz`).

Prints libFuzzer's statistics. A crash leaves its input in `crash-…` and exits with an error.
"""

import sys
import tempfile
from pathlib import Path

import atheris

from tests.fuzz import INSTRUMENTED

with atheris.instrument_imports(include=list(INSTRUMENTED)):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name, seconds = sys.argv[1], sys.argv[2]
    target, seeds = TARGETS[name]
    corpus = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-max_len=16384", "-timeout=20", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", str(corpus)], target)
    atheris.Fuzz()


main()
