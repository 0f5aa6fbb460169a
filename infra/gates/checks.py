"""The gates that need more than the template: linters, a scanner, a real build, and functions that really start.

Each returns its findings, one per line, and raises ToolMissing if it could not run.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from gates import bundle, mutation, packages, stack, tools
from gates.tools import CACHE, ROOT

# Reviewed findings of checkov: why each is accepted, and for which resources.
NAMES: Final = ("Digest", "Publish", "Uploads", "Maintain", "Mirror", "Copy", "Delta", "Redact")
FUNCTIONS: Final = frozenset(f"{name}Function" for name in NAMES)
LOGS: Final = frozenset({f"{name}Logs" for name in NAMES} | {"ApiLogs", "ViewLogs"})
QUEUES: Final = frozenset(
    f"{name}{kind}"
    for name in ("Arrivals", "Changes", "Copies", "Deltas", "AccessLogs")
    for kind in ("Queue", "DeadLetters")
) | {"MaintainDeadLetters"}
ACCEPTED: Final[Mapping[str, tuple[str, frozenset[str]]]] = {
    "CKV_AWS_18": ("it is the bucket for access logs; logging itself would never end", frozenset({"LogsBucket"})),
    "CKV_AWS_21": (
        "access logs are written once and expire; versions would only double them",
        frozenset({"LogsBucket"}),
    ),
    "CKV_AWS_26": (
        "CloudWatch cannot publish through the free SNS key; alarms hold no secret",
        frozenset({"AlarmsTopic"}),
    ),
    "CKV_AWS_27": ("encrypted by SQS's own keys (SqsManagedSseEnabled); the check knows only KMS", QUEUES),
    "CKV_AWS_86": (
        "logged unless EdgeLogs says no; the check cannot see through a condition",
        frozenset({"Distribution"}),
    ),
    "CKV_AWS_115": ("bounded by MaximumConcurrency and the API's throttle; reserving fails in new accounts", FUNCTIONS),
    "CKV_AWS_116": (
        "SQS and the scheduler keep failed events in their own queues, the API answers its caller, mirror runs again",
        FUNCTIONS,
    ),
    "CKV_AWS_117": (
        "they call AWS, and mirror and copy public servers; a VPC adds a NAT gateway and protects nothing",
        FUNCTIONS,
    ),
    "CKV_AWS_158": ("encrypted by CloudWatch's own keys; no secret is ever logged", LOGS),
    "CKV_AWS_173": ("encrypted by Lambda's own keys; the variables hold names and settings, no secret", FUNCTIONS),
    "CKV_AWS_174": (
        "TLS 1.2 with your own domain; for cloudfront.net names AWS sets the protocol",
        frozenset({"Distribution"}),
    ),
}


def lint_source() -> Iterator[str]:
    """Run cfn-lint over the template as written."""
    yield from _cfn_lint(stack.TEMPLATE)


def lint_translation() -> Iterator[str]:
    """Run cfn-lint over SAM's translation: event source mappings, roles and the API exist only there."""
    document = stack.translated()
    CACHE.mkdir(parents=True, exist_ok=True)
    target = CACHE / "translated.json"
    target.write_text(json.dumps(document, indent=1))
    yield from _cfn_lint(target)


def _cfn_lint(template: Path) -> Iterator[str]:
    cfn_lint = Path(sys.executable).parent / "cfn-lint"  # of the group `lint`, as in the pre-commit hook
    done = _run([str(cfn_lint), "--format", "parseable", "--region", stack.REGION, "--", str(template)])
    yield from done.stdout.splitlines()
    if done.returncode and not done.stdout:
        yield f"cfn-lint failed: {done.stderr.strip()}"


def validate() -> Iterator[str]:
    """Run `sam validate --lint`."""
    sam = tools.environment("sam") / "sam"
    done = _run(
        [str(sam), "validate", "--lint", "--region", stack.REGION, "--template", str(stack.TEMPLATE)],
        _sam_environment(),
    )
    if done.returncode:
        yield from (done.stdout + done.stderr).strip().splitlines()


def scan() -> Iterator[str]:
    """Run checkov over the translation. A finding without a review fails, and so does a review without a finding."""
    checkov = tools.environment("checkov") / "checkov"
    document = stack.translated()
    for parameter, on in {"Deltas": 1, "Views": "true"}.items():  # checkov ignores resources that a default leaves out
        document["Parameters"][parameter]["Default"] = on
    CACHE.mkdir(parents=True, exist_ok=True)
    scanned = CACHE / "scanned.json"
    scanned.write_text(json.dumps(document))
    done = _run([str(checkov), "-f", str(scanned), "--framework", "cloudformation", "-o", "json", "--quiet"])
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        yield f"checkov gave no report: {(done.stdout + done.stderr).strip()[-500:]}"
        return
    if report["summary"]["parsing_errors"] or not report["summary"]["passed"]:
        yield f"checkov could not read the template: {report['summary']}"
    found: dict[str, set[str]] = {}
    for check in report["results"]["failed_checks"]:
        found.setdefault(check["check_id"], set()).add(check["resource"].rsplit(".", 1)[-1])
    for check in sorted(found.keys() | ACCEPTED.keys()):
        reason, accepted = ACCEPTED.get(check, ("", frozenset()))
        yield from (f"{check} on {name}: not reviewed" for name in sorted(found.get(check, set()) - accepted))
        yield from (
            f"{check} on {name}: accepted ({reason}), but not found"
            for name in sorted(accepted - found.get(check, set()))
        )


def build() -> Iterator[str]:
    """Run `sam build` and inspect each package: one handler, for the right processor, with bytecode."""
    python, sam = tools.python313(), tools.environment("sam") / "sam"
    folder = CACHE / "build"
    command = [str(sam), "build", "--template", str(stack.TEMPLATE), "--build-dir", str(folder)]
    done = _run(command, _sam_environment(python))
    if done.returncode:
        yield from (done.stdout + done.stderr).strip().splitlines()[-20:]
        return
    for function in sorted(FUNCTIONS):
        yield from (f"{function}: {finding}" for finding in _look_into(folder / function, function))


def _look_into(package: Path, function: str) -> Iterator[str]:
    name = function.removesuffix("Function").lower()
    if not (package / bundle.handler(name)).is_file():
        yield f"no {bundle.handler(name)}"
    here = {path.name for path in package.iterdir()}
    strangers = here & {
        "moto",
        "local_stack",
        "gates",
        "cli",
        "pytest",
        "tests",
        "Makefile",
    }
    yield from (f"holds {stranger}" for stranger in sorted(strangers))
    for other in ("digest", "publish", "uploads", "maintain"):
        if other != name and (package / bundle.handler(other)).exists():
            yield f"holds the handler of {other}"
    for source in package.rglob("*.py"):
        if not list((source.parent / "__pycache__").glob(f"{source.stem}.cpython-313.pyc")):
            yield f"{source.relative_to(package)} has no bytecode"
    for library in package.rglob("*.so"):
        (machine,) = struct.unpack_from("<H", library.read_bytes(), 18)
        if machine != EM_AARCH64:
            yield f"{library.relative_to(package)} is for ELF machine {machine}, not {EM_AARCH64} (arm64)"


EM_AARCH64: Final = 183


def start() -> Iterator[str]:
    """Check that each function, built for this machine, answers under awslambdaric from only its own folder."""
    for function in packages.NAMES:
        yield from (f"{function}: {finding}" for finding in packages.answers(function))


def _sam_environment(python: Path | None = None) -> dict[str, str]:
    path = os.pathsep.join([*([str(python.parent)] if python else []), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": stack.REGION}


def _run(command: list[str], environment: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


CHECKS: Final[Mapping[str, Callable[[], Iterator[str]]]] = {
    "lint": lint_source,
    "lint-translation": lint_translation,
    "validate": validate,
    "scan": scan,
    "build": build,
    "start": start,
    "mutation": mutation.mutate,
}


def sizes(folder: Path) -> dict[str, Any]:
    """Return the size of a package in bytes, unpacked and zipped."""
    unzipped = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    archive = Path(shutil.make_archive(str(CACHE / f"{folder.name}-size"), "zip", folder))
    try:
        return {"unzipped_bytes": unzipped, "zipped_bytes": archive.stat().st_size}
    finally:
        archive.unlink()
