"""Builds the folder from which one Lambda function is deployed: its imports, and nothing else.

`sam build` calls it through functions/Makefile; it needs only the standard library and uv or pip. The package contains
bytecode, because without it a cold start takes twice as long, and boto3, because the runtime's own has no fixed
version. Of botocore's 400 service descriptions, only those of the services used here are kept.
"""

import ast
import os
import platform
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gates import xdelta3

ROOT: Final = Path(__file__).resolve().parents[2]
FUNCTIONS: Final = ROOT / "functions"
# The runtime and the architecture of the template's functions; wheels for others are useless there.
RUNTIME: Final = (3, 13)
PIP_PLATFORMS: Final = ("manylinux2014_aarch64", "manylinux_2_28_aarch64")
UV_PLATFORM: Final = "aarch64-manylinux_2_28"
SERVICES: Final = frozenset({"s3", "sqs", "cloudfront"})
# Removed if no source of the function imports the name: whole distributions, and large parts of one that is little
# used. Starting each package shows that nothing else needs them (gates.packages).
_POWERTOOLS: Final = (
    "event_handler",
    *(
        f"utilities.{part}"
        for part in ("data_masking", "feature_flags", "idempotency", "kafka", "parameters", "parser")
    ),
    *(f"utilities.{part}" for part in ("streaming", "validation")),
)
OPTIONAL: Final = {
    "yaml": ("yaml", "_yaml"),
    "backports": ("backports",),
    "pysequoia": ("pysequoia",),
    "aws_lambda_powertools": ("aws_lambda_powertools",),
    **{f"aws_lambda_powertools.{part}": (f"aws_lambda_powertools/{part.replace('.', '/')}",) for part in _POWERTOOLS},
}


def bundle(function: str, folder: Path, *, for_this_machine: bool = False) -> None:
    """Fill `folder` with the package of one function (`digest`, `publish`, …).

    `for_this_machine` takes wheels for this interpreter instead of Lambda's, so that the package can be started.
    """
    if sys.version_info[:2] != RUNTIME:
        found = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise SystemExit(f"bundle: bytecode must be made by python3.13, the functions' runtime; this is {found}")
    folder.mkdir(parents=True, exist_ok=True)
    sources = set(first_party(function))
    install_requirements(folder, for_this_machine=for_this_machine)
    prune(folder, imported={name for source in sources for name in imports(source)})
    for source in sources | set(data_files(sources)):
        target = folder / source.relative_to(FUNCTIONS)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    uses_xdelta3 = "imageserver.programs.xdelta3" in {name for source in sources for name in imports(source)}
    if uses_xdelta3 and xdelta3.is_wanted():
        is_x86 = for_this_machine and platform.machine() == "x86_64"
        xdelta3.add(folder, "amd64" if is_x86 else "arm64")
    compile_all(folder)


def handler(function: str) -> Path:
    """Return the path below functions/, and below a package, of the module that Lambda starts for a function."""
    return Path("imageserver", "handlers", f"{function}.py")


def first_party(function: str) -> Iterator[Path]:
    """Yield every source file under functions/ that the function's handler imports, however indirectly."""
    waiting = [FUNCTIONS / handler(function)]
    if not waiting[0].is_file():
        raise SystemExit(f"bundle: no handler at {waiting[0].relative_to(ROOT)}")
    seen: set[Path] = set()
    while waiting:
        source = waiting.pop()
        if source in seen:
            continue
        seen.add(source)
        yield source
        for name in imports(source):
            base = FUNCTIONS.joinpath(*name.split("."))
            waiting += (path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file())
        waiting += (parent / "__init__.py" for parent in source.parents if (parent / "__init__.py").is_file())


def imports(source: Path) -> set[str]:
    """Return the dotted names of all imports in a module, each with its parent packages."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_bytes(), str(source))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or not node.module:
                raise SystemExit(f"bundle: {source}:{node.lineno}: relative import; name the module in full")
            names.update({node.module}, (f"{node.module}.{alias.name}" for alias in node.names))
    parts = [name.split(".") for name in names]
    return {".".join(name[: end + 1]) for name in parts for end in range(len(name))}


def data_files(sources: set[Path]) -> Iterator[Path]:
    """Yield the files in source folders that are not sources: documents that a function serves."""
    folders = {source.parent for source in sources} - {FUNCTIONS}
    for folder in folders:
        yield from (p for p in folder.iterdir() if p.is_file() and p.suffix not in {".py", ".pyc", ".typed"})


def install_requirements(folder: Path, *, for_this_machine: bool) -> None:
    """Unpack the pinned wheels; uv does in two seconds what takes pip twenty, but pip is always there."""
    common = ["--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", f"--target={folder}"]
    if shutil.which("uv"):
        command = ["uv", "pip", "install", "--python", sys.executable, "--link-mode=copy", *common]
        command += [] if for_this_machine else [f"--python-platform={UV_PLATFORM}"]
    else:
        quiet = ["--no-compile", "--root-user-action=ignore", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "install", *quiet, *common]
        command += [] if for_this_machine else [f"--platform={platform}" for platform in PIP_PLATFORMS]
    subprocess.run([*command, "-r", str(FUNCTIONS / "requirements.txt")], check=True)


def prune(folder: Path, imported: set[str]) -> None:
    """Remove files that our functions cannot use: other services, installers' notes, scripts, optional packages."""
    for path in (folder / "botocore" / "data").iterdir():
        if path.is_dir() and path.name not in SERVICES:
            shutil.rmtree(path)
    # Paginators and waiters are small and used; examples and endpoint tests are neither.
    for path in (folder / "botocore" / "data").rglob("examples-*"):
        path.unlink()
    unused = [folder / "bin", folder / "boto3" / "examples", *folder.glob("*.dist-info")]
    unused += (folder / name for package, names in OPTIONAL.items() if package not in imported for name in names)
    for path in unused:
        shutil.rmtree(path, ignore_errors=True)
    (folder / ".lock").unlink(missing_ok=True)  # uv's


def compile_all(folder: Path) -> None:
    """Write bytecode that is used without checking its source, whose date does not survive zipping."""
    for source in sorted(folder.rglob("*.py")):
        # The name in a traceback is the path that the file will have there.
        name = os.path.join("/var/task", source.relative_to(folder))  # noqa: PTH118  (a path in Lambda, not here)
        py_compile.compile(
            str(source), dfile=name, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python3.13 -m gates.bundle FUNCTION FOLDER")
    bundle(sys.argv[1].lower(), Path(sys.argv[2]))
