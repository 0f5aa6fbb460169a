"""Make an environment with the packages of uv.lock, using only Python's standard library.

Each version of Python has its own environment: `.venv-3.11`, `.venv-3.13`. `.venv` is a link to the first one made,
for editors and for commands typed by hand.

If an environment is older than `uv.lock` it is brought up to date: by the `uv` on PATH if there is a recent one,
else by a pinned `uv`, fetched and checked by its sha256 (so this step needs neither pip nor TLS roots). The packages
come from whatever index the standard variables or pip.conf name, each checked against its hash in `uv.lock`.

`python3 scripts/environment.py [--python VERSION] GROUP...` prints the path of the environment's Python.
"""

import argparse
import configparser
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

PROJECT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 11)
IMPORT_FOLDERS = ("functions", "infra", "scripts", ".")
"""What an environment can import besides its packages, as folders of the project."""

UV_VERSION = "0.13.9"
UV_OLDEST = (0, 8)
# The statically linked builds: one file runs on every Linux of its architecture, whatever its C library.
_UV_HOST = "https://files.pythonhosted.org/packages/"
UV_WHEELS = {
    ("Linux", "x86_64"): (
        _UV_HOST + "fe/fe/794884de0efd3ac77a427cab21aa72c0483e100c55a42cd5cbb02c141b84/",
        "uv-0.13.9-py3-none-musllinux_1_1_x86_64.whl",
        "2c45530751517d6c3bbc69a19473f6effe47cce047bede01ffd8af7ea7b36b25",
    ),
    ("Linux", "aarch64"): (
        _UV_HOST + "57/15/94b6cd62ac3ff6550288328e8035288875197cbc183f51554b266a69877b/",
        "uv-0.13.9-py3-none-manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64.whl",
        "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
    ),
    ("Darwin", "arm64"): (
        _UV_HOST + "f3/a7/a8d7b074798c7fb3b26b37584b8fe2e29df2ccdc24ce7902caab2a53edbf/",
        "uv-0.13.9-py3-none-macosx_11_0_arm64.whl",
        "66c512266d633bef48384a1f53003f41f2a8e7b36fe6e7fbfd3e0fd52d96fa63",
    ),
}


class SetupFailed(Exception):
    """The environment cannot be made; the message says what to do."""


def run(module: str, *, groups: Sequence[str]) -> NoReturn:
    """Replace this process with `module` in an environment that holds the dependency `groups` of pyproject.toml."""
    try:
        python = ensure_environment(groups)
    except SetupFailed as failure:
        _fail(failure)
    sys.stdout.flush()
    os.execv(python, [str(python), "-m", module, *sys.argv[1:]])  # noqa: S606  (an interpreter of ours)


def switch_python() -> None:
    """Take `--python VERSION` out of `sys.argv`; start this script again under that Python if this is another one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--python")
    given, rest = parser.parse_known_args(sys.argv[1:])
    if given.python in (None, "{}.{}".format(*sys.version_info)):
        sys.argv[1:] = rest
        return
    try:
        python = find_python(given.python)
    except SetupFailed as failure:
        _fail(failure)
    os.execv(python, [str(python), sys.argv[0], *rest])  # noqa: S606  (an interpreter of ours)


def find_python(wanted: str, *, module: str = "venv") -> Path:
    """Return a Python that runs and can import `module`. `wanted` is a version like `3.13`, or the path of one.

    Raise SetupFailed with everything that was tried. A pyenv shim on PATH fails unless its version is selected.
    """
    is_version = re.fullmatch(r"3\.\d+", wanted) is not None
    candidates = list(dict.fromkeys(_pythons(wanted))) if is_version else [Path(wanted)]
    check = f"import {module}, sys; print(sys.version_info >= {OLDEST_PYTHON}, '%d.%d' % sys.version_info[:2])"
    for candidate in candidates:
        answer = _output([str(candidate), "-c", check]) if candidate.is_file() else ""
        if answer.startswith("True") and (not is_version or answer == f"True {wanted}"):
            return candidate.absolute()
    raise SetupFailed(
        f"no Python {wanted} with the module {module} was found. Install it, or put it on PATH (the lowest version is "
        f"{'.'.join(map(str, OLDEST_PYTHON))}). Tried {', '.join(map(str, candidates)) or 'nothing'}."
    )


def _pythons(version: str) -> Iterator[Path]:
    yield from (Path(folder) / f"python{version}" for folder in os.environ.get("PATH", "").split(os.pathsep))
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{version}*/bin/python{version}"), reverse=True)
    if shutil.which("uv"):
        found = _output(["uv", "python", "find", "--managed-python", version])
        yield from [Path(found)] if found else []


def _output(command: list[str]) -> str:
    """Return what a command prints, or an empty string if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else ""


def _fail(failure: SetupFailed) -> NoReturn:
    sys.exit(f"{Path(sys.argv[0]).name}: {failure}")


def working_folder() -> Path:
    """Return where the environment and other derived files live: the clone, or the user's cache if it is read-only."""
    if os.access(PROJECT, os.W_OK):
        return PROJECT
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    clone = hashlib.sha256(str(PROJECT).encode()).hexdigest()[:12]
    folder = cache / "serverless-simplestreams" / clone
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupFailed(
            f"neither {PROJECT} nor {folder} is writable ({error.strerror}); set XDG_CACHE_HOME to a folder that is"
        ) from error
    return folder


def ensure_environment(groups: Sequence[str]) -> Path:
    """Return the Python of an environment that matches uv.lock, made or refreshed under a lock if need be.

    The environment is the one of this interpreter's version.
    """
    folder = working_folder()
    environment = folder / ".venv-{}.{}".format(*sys.version_info)
    if _is_fresh(environment, groups):
        return environment / "bin" / "python"
    with _locked(folder / ".cache" / "setup.lock"):
        if not _is_fresh(environment, groups):  # another process may have done it while this one waited
            _install(environment, groups)
        link = folder / ".venv"
        if not link.exists():
            link.unlink(missing_ok=True)  # it led to an environment that has been removed
            link.symlink_to(environment.name)
    return environment / "bin" / "python"


def _is_fresh(environment: Path, groups: Sequence[str]) -> bool:
    stamp = _read_stamp(environment)
    return (
        stamp.get("inputs") == _inputs()
        and set(groups) <= set(stamp.get("groups", []))
        and (environment / "bin" / "python").exists()  # a dangling link when the system's Python was upgraded
    )


def _read_stamp(environment: Path) -> dict[str, Any]:
    try:
        stamp = json.loads((environment / "stamp.json").read_text())
    except (OSError, ValueError):  # absent or truncated: the environment is made again
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _inputs() -> str:
    """Return a digest of everything that decides what an environment holds."""
    digest = hashlib.sha256(f"{platform.machine()} {PROJECT} {IMPORT_FOLDERS}".encode())
    for name in ("uv.lock", "pyproject.toml"):
        digest.update((PROJECT / name).read_bytes())
    return digest.hexdigest()


def _install(environment: Path, groups: Sequence[str]) -> None:
    stamp = _read_stamp(environment)
    wanted = sorted({*groups, *(stamp["groups"] if stamp.get("inputs") == _inputs() else ())})
    _say(f"setting up Python packages in {environment} (only when uv.lock has changed)")
    (environment / "stamp.json").unlink(missing_ok=True)
    uv = find_uv()
    settings = uv_settings(dict(os.environ))
    python = environment / "bin" / "python"
    version = _output([str(python), "-c", "import sys; print(sys.version_info[:2])"]) if python.exists() else ""
    if version != str(sys.version_info[:2]):  # it does not run, or is another Python than this one
        _uv(uv, settings, "venv", "--clear", "--no-project", "--python", sys.executable,
            "--no-managed-python", "--no-python-downloads", str(environment))  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        requirements = Path(scratch) / "requirements.txt"
        selection = [word for group in wanted for word in ("--group", group)]
        # `uv sync` insists on the index written in the lock file; exported, the same versions and hashes may come
        # from a mirror too.
        _uv(uv, settings, "export", "--frozen", "--no-emit-project", "--no-default-groups", *selection,
            "--directory", str(PROJECT), "--output-file", str(requirements))  # fmt: skip
        # Added, not synchronised: two scripts must not take turns removing each other's packages.
        _uv(uv, settings, "pip", "install", "--require-hashes", "--no-config",
            "--python", str(python), "-r", str(requirements))  # fmt: skip
    _make_importable(environment)
    (environment / "stamp.json").write_text(json.dumps({"inputs": _inputs(), "groups": wanted}))


def _make_importable(environment: Path) -> None:
    """Let the environment's Python import the project's own code, as an editable install would."""
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
    folders = [str((PROJECT / name).resolve()) for name in IMPORT_FOLDERS]
    (packages / "serverless-simplestreams.pth").write_text("\n".join(folders) + "\n")


def _uv(uv: str, settings: dict[str, str], *arguments: str) -> None:
    loudness = [] if sys.stderr.isatty() else ["--quiet"]  # on a terminal, show that something happens
    result = subprocess.run([uv, *loudness, *arguments], env=settings, check=False, stdout=subprocess.DEVNULL)
    if result.returncode:
        raise SetupFailed(
            f"`uv {' '.join(arguments[:2])}` failed with exit code {result.returncode} (its reason is above). Without "
            "a direct connection, set PIP_INDEX_URL to a package index and SSL_CERT_FILE to its certificate authority."
        )


def uv_settings(environment: dict[str, str]) -> dict[str, str]:
    """Return `environment` with pip's own settings (variables and pip.conf) translated to uv's; uv's variables win."""
    pip = {**_pip_conf(environment), **{k: v for k, v in environment.items() if v}}
    settings = dict(environment)
    for uv_name, pip_name in (
        ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"),
        ("UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL"),
        ("SSL_CERT_FILE", "PIP_CERT"),
    ):
        if uv_name == "UV_DEFAULT_INDEX" and settings.get("UV_INDEX_URL"):
            continue
        if not settings.get(uv_name) and pip.get(pip_name):
            settings[uv_name] = pip[pip_name]
    for name in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH", "PYTHONHOME"):
        settings.pop(name, None)  # of the caller; they would point uv at another environment
    if not os.access(Path.home(), os.W_OK) and not settings.get("UV_CACHE_DIR"):
        settings["UV_CACHE_DIR"] = str(working_folder() / ".cache" / "uv")
    return settings


def _pip_conf(environment: dict[str, str]) -> dict[str, str]:
    home = Path(environment.get("HOME") or "/")
    files = [Path("/etc/pip.conf"), home / ".pip/pip.conf", home / ".config/pip/pip.conf"]
    if environment.get("PIP_CONFIG_FILE"):
        files.append(Path(environment["PIP_CONFIG_FILE"]))
    parser = configparser.RawConfigParser()
    parser.read(files)
    found = dict(parser["global"]) if parser.has_section("global") else {}
    return {"PIP_" + name.replace("-", "_").upper(): value for name, value in found.items()}


def find_uv() -> str:
    """Return the path of a usable uv: the one on PATH if recent enough, else the pinned one, fetched on first use."""
    if present := shutil.which("uv"):
        answer = subprocess.run([present, "--version"], check=False, capture_output=True, text=True)
        version = re.search(r"(\d+)\.(\d+)", answer.stdout)
        if version and (int(version[1]), int(version[2])) >= UV_OLDEST:
            return present
    pinned = working_folder() / ".cache" / f"uv-{UV_VERSION}"
    if not pinned.exists():
        _fetch_uv(pinned)
    return str(pinned)


def _fetch_uv(target: Path) -> None:
    platform_key = (platform.system(), platform.machine())
    if platform_key not in UV_WHEELS:
        raise SetupFailed(
            f"no pinned uv for {' '.join(platform_key)}; install uv {UV_VERSION} by hand "
            "(https://docs.astral.sh/uv/) so that it is on PATH"
        )
    folder, name, sha256 = UV_WHEELS[platform_key]
    _say(f"fetching uv {UV_VERSION}, the package installer")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        wheel = Path(scratch) / name
        _fetch_wheel(folder + name, wheel, sha256)
        with zipfile.ZipFile(wheel) as archive:
            binary = Path(archive.extract(f"uv-{UV_VERSION}.data/scripts/uv", scratch))
        binary.chmod(0o755)
        binary.replace(target)  # atomic: another process never sees a partial program


def _fetch_wheel(url: str, target: Path, sha256: str) -> None:
    """Write the wheel to `target`, from the configured mirror, else from PyPI, else through pip."""
    reasons = []
    for find in (_mirror_url, lambda _name: url):
        try:
            source = find(target.name)
            if source:
                wheel = _download(source)
                target.write_bytes(wheel)
                found = hashlib.sha256(wheel).hexdigest()
                if found == sha256:
                    return
                reasons.append(f"sha256 {found} differs from the pinned {sha256}")
        except (OSError, SetupFailed) as error:
            reasons.append(str(error))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
           "--dest", str(target.parent), f"uv=={UV_VERSION}"]  # fmt: skip
    if subprocess.run(pip, check=False, capture_output=True).returncode == 0:
        downloaded = next(target.parent.glob("uv-*.whl"))
        if hashlib.sha256(downloaded.read_bytes()).hexdigest() == sha256:
            downloaded.replace(target)
            return
    raise SetupFailed(
        "uv could not be fetched: " + "; ".join(reasons) + ". Check the network, a proxy (HTTPS_PROXY) or a "
        f"package index (PIP_INDEX_URL), or put uv {UV_VERSION} on PATH by hand."
    )


def _mirror_url(name: str) -> str | None:
    """Return the address of the wheel on the index that the environment names (PEP 503), None without one."""
    settings = uv_settings(dict(os.environ))
    index = settings.get("UV_DEFAULT_INDEX") or settings.get("UV_INDEX_URL")
    if not index:
        return None
    page = index.rstrip("/") + "/uv/"
    found = re.search(r'href="([^"]*/)?(' + re.escape(name) + r')[^"]*"', _download(page).decode())
    return urllib.parse.urljoin(page, (found.group(1) or "") + name) if found else None


def _download(url: str) -> bytes:
    """Return the body of `url`. Fall back to an unverified connection: a bare machine has no TLS roots, and a wheel is
    checked against the sha256 pinned above."""
    request = urllib.request.Request(url, headers={"User-Agent": "serverless-simplestreams"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.read()  # type: ignore[no-any-return]  # bytes
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLCertVerificationError):
            raise SetupFailed(f"{url}: {error}") from error
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    with urllib.request.urlopen(request, timeout=120, context=unverified) as answer:
        return answer.read()  # type: ignore[no-any-return]  # bytes


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; released by the kernel when its holder dies."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another run that is setting up the packages")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(what: str) -> None:
    print(f"[setup] {what}", file=sys.stderr, flush=True)


def main() -> None:
    """Make the environment with the dependency groups that are given as arguments; print the path of its Python."""
    switch_python()
    try:
        print(ensure_environment(sys.argv[1:]))
    except SetupFailed as failure:
        _fail(failure)


if __name__ == "__main__":
    main()
