"""The set-up of the scripts, as far as it works without a network; scripts/presign and stack.json."""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result

import cli.test
import environment
from cli import presign
from imageserver.format.caching import BRIEF, IMMUTABLE
from local_stack import s3_rules
from local_stack.errors import NotRunning
from local_stack.state import Stack, read_stack, remove_stack

GOOD = "images/ubuntu/xenial/amd64/default/20261123_10:00/lxd.tar.xz"
ROOT = "images/ubuntu/xenial/amd64/default/20261123_10:00/rootfs.squashfs"


def test_the_entry_file_parses_on_an_old_python() -> None:
    import ast

    source = (environment.PROJECT / "scripts" / "bootstrap.py").read_text()
    ast.parse(source, feature_version=(3, 6))
    assert "import environment" in source  # the rest may be as new as it likes


@pytest.mark.parametrize(
    ("given", "name", "expected"),
    [
        ({"PIP_INDEX_URL": "https://mirror/simple"}, "UV_DEFAULT_INDEX", "https://mirror/simple"),
        ({"PIP_INDEX_URL": "https://a", "UV_DEFAULT_INDEX": "https://b"}, "UV_DEFAULT_INDEX", "https://b"),
        ({"PIP_INDEX_URL": "https://a", "UV_INDEX_URL": "https://b"}, "UV_DEFAULT_INDEX", None),
        ({"PIP_CERT": "/ca.pem"}, "SSL_CERT_FILE", "/ca.pem"),
        ({"PIP_CERT": "/ca.pem", "SSL_CERT_FILE": "/own.pem"}, "SSL_CERT_FILE", "/own.pem"),
        ({"HTTPS_PROXY": "http://proxy"}, "HTTPS_PROXY", "http://proxy"),
        ({"VIRTUAL_ENV": "/elsewhere"}, "VIRTUAL_ENV", None),
        ({"UV_PROJECT_ENVIRONMENT": "/elsewhere"}, "UV_PROJECT_ENVIRONMENT", None),
    ],
)
def test_settings_for_pip_are_said_to_uv(
    given: dict[str, str], name: str, expected: str | None, tmp_path: Path
) -> None:
    assert environment.uv_settings({"HOME": str(tmp_path), **given}).get(name) == expected


def test_pip_conf_is_read_and_variables_go_before_it(tmp_path: Path) -> None:
    conf = tmp_path / ".config/pip/pip.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text("[global]\nindex-url = https://conf/simple\n")
    given = {"HOME": str(tmp_path)}
    assert environment.uv_settings(given)["UV_DEFAULT_INDEX"] == "https://conf/simple"
    given["PIP_INDEX_URL"] = "https://variable/simple"
    assert environment.uv_settings(given)["UV_DEFAULT_INDEX"] == "https://variable/simple"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with an environment that is fresh for the group `local`."""
    (tmp_path / "uv.lock").write_text("lock")
    (tmp_path / "pyproject.toml").write_text("project")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text("")
    monkeypatch.setattr(environment, "PROJECT", tmp_path)
    stamp = {"inputs": environment._inputs(), "groups": ["local"]}
    (tmp_path / ".venv/stamp.json").write_text(json.dumps(stamp))
    return tmp_path


def test_an_environment_is_made_again_only_for_a_reason(project: Path) -> None:
    venv = project / ".venv"
    assert environment._is_fresh(venv, ["local"])
    assert not environment._is_fresh(venv, ["local", "test"])
    (project / "uv.lock").write_text("other lock")
    assert not environment._is_fresh(venv, ["local"])


def test_a_stamp_that_was_cut_short_does_not_count(project: Path) -> None:
    (project / ".venv/stamp.json").write_text('{"inputs": ')
    assert not environment._is_fresh(project / ".venv", ["local"])


def test_an_environment_whose_python_is_gone_does_not_count(project: Path) -> None:
    (project / ".venv/bin/python").unlink()
    (project / ".venv/bin/python").symlink_to(project / "nowhere")
    assert not environment._is_fresh(project / ".venv", ["local"])


def test_a_read_only_clone_keeps_its_environment_in_the_cache(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(environment.os, "access", lambda path, _mode: Path(path) != project)
    assert environment.working_folder().is_relative_to(cache)


class Index:
    """A package index with one wheel, as files; `file://` addresses serve as well as any."""

    def __init__(self, folder: Path) -> None:
        self.wheel = folder / "uv-9-py3-none-any.whl"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr(f"uv-{environment.UV_VERSION}.data/scripts/uv", "#!/bin/sh\necho fetched\n")
        self.sha256 = hashlib.sha256(self.wheel.read_bytes()).hexdigest()
        self.folder_url = folder.as_uri() + "/"


def _pin(monkeypatch: pytest.MonkeyPatch, index: Index, sha256: str) -> None:
    key = (environment.platform.system(), environment.platform.machine())
    monkeypatch.setattr(environment, "UV_WHEELS", {key: (index.folder_url, index.wheel.name, sha256)})
    for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)


def test_a_fetched_installer_is_checked_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(tmp_path)
    _pin(monkeypatch, index, index.sha256)
    environment._fetch_uv(tmp_path / "cache/uv")
    assert subprocess.run([tmp_path / "cache/uv"], capture_output=True, check=True).stdout == b"fetched\n"


def test_an_installer_with_other_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(tmp_path)
    _pin(monkeypatch, index, "0" * 64)
    monkeypatch.setattr(environment.sys, "executable", "/bin/false")  # pip, the last resort, fails too
    with pytest.raises(environment.SetupFailed, match=f"sha256 {index.sha256} differs from the pinned 0000"):
        environment._fetch_uv(tmp_path / "cache/uv")
    assert not (tmp_path / "cache/uv").exists()


def test_an_unknown_platform_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "UV_WHEELS", {})
    with pytest.raises(environment.SetupFailed, match=r"install uv .* by hand"):
        environment._fetch_uv(tmp_path / "uv")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """stack.json of a stack that is said to run in this process; nobody answers at its endpoint."""
    running = Stack(
        "https://localhost:1", "ca.pem", "http://127.0.0.1:9", "b", "us-east-1", os.getpid(), "", "AK", "SK"
    )
    running.write(tmp_path)
    yield running
    remove_stack(tmp_path)


def test_stack_json_has_the_names_that_others_rely_on(stack: Stack, tmp_path: Path) -> None:
    said = json.loads((tmp_path / "stack.json").read_text())
    assert {"base_url", "ca_file", "s3_endpoint", "bucket", "region", "pid", "api_url"} <= set(said)
    assert read_stack(tmp_path) == stack


def test_a_stack_that_is_gone_is_not_found(stack: Stack, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    said = json.loads((tmp_path / "stack.json").read_text())
    (tmp_path / "stack.json").write_text(json.dumps({**said, "pid": ended.pid}))
    with pytest.raises(NotRunning, match="is gone"):
        read_stack(tmp_path)
    remove_stack(tmp_path)
    with pytest.raises(NotRunning, match=r"start \./scripts/local"):
        read_stack(tmp_path)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(presign.main, [str(argument) for argument in arguments])


def test_presign_prints_one_bare_url_for_each_key(stack: Stack, tmp_path: Path) -> None:
    done = run(GOOD, ROOT, "--overwrite", "--expires", "60", "--state-dir", tmp_path)
    assert done.exit_code == 0
    urls = [line for line in done.stdout.splitlines() if line.startswith("http")]
    assert len(urls) == 2
    query = parse_qs(urlsplit(urls[0]).query)
    assert (query["X-Amz-Algorithm"], query["X-Amz-Expires"]) == (["AWS4-HMAC-SHA256"], ["60"])
    assert urlsplit(urls[0]).path == f"/b/{GOOD.replace(':', '%3A')}"
    assert f"curl --fail-with-body -H 'Cache-Control: {IMMUTABLE}' -T lxd.tar.xz '{urls[0]}'" in done.stdout
    assert query["X-Amz-SignedHeaders"] == ["cache-control;host"]


def test_presign_as_json(stack: Stack, tmp_path: Path) -> None:
    (upload,) = json.loads(run(GOOD, "--overwrite", "--json", "--state-dir", tmp_path).stdout)
    assert set(upload) == {"key", "url", "method", "headers", "expires_in", "curl"}
    headers = {"Cache-Control": IMMUTABLE}
    assert (upload["key"], upload["method"], upload["headers"], upload["expires_in"]) == (GOOD, "PUT", headers, 3600)


def test_the_line_that_presign_prints_sends_every_header_that_its_url_signs(stack: Stack, tmp_path: Path) -> None:
    client, bucket = presign._local(tmp_path)
    for file, lifetime in (("lxd.tar.xz", IMMUTABLE), ("disk.20261101.qcow2.vcdiff", IMMUTABLE), ("SHA256SUMS", BRIEF)):
        upload = presign.presign(client, bucket, f"{GOOD.rpartition('/')[0]}/{file}", 60, overwrite=False)
        assert upload.headers == {"Cache-Control": lifetime, "If-None-Match": "*"}
        sent = {word.partition(": ")[0].lower() for word in shlex.split(upload.curl) if ": " in word}
        assert parse_qs(urlsplit(upload.url).query)["X-Amz-SignedHeaders"] == [";".join(sorted({"host", *sent}))]


def test_the_page_shows_the_line_that_presign_prints(stack: Stack, tmp_path: Path) -> None:
    page = (environment.PROJECT / "infra/page/source/main.js").read_text()
    (line,) = re.findall(r"line: `(curl [^`]*)`", page)
    upload = presign.presign(*presign._local(tmp_path), GOOD.replace("lxd.tar.xz", "incus.tar.xz"), 60, overwrite=False)
    assert line == upload.curl.replace(f"'{upload.url}'", '"$URL"')


def test_the_local_stack_helps_a_bare_curl_with_what_presign_signs(stack: Stack, tmp_path: Path) -> None:
    client, bucket = presign._local(tmp_path)
    for overwrite in (False, True):
        upload = presign.presign(client, bucket, GOOD, 60, overwrite)
        (signed,) = parse_qs(urlsplit(upload.url).query)["X-Amz-SignedHeaders"]
        assert signed.split(";") in s3_rules.PRESIGNED
    assert s3_rules.LIFETIMES == (IMMUTABLE, BRIEF)


def test_presign_refuses_a_key_with_the_servers_sentence_and_prints_no_url_at_all(stack: Stack, tmp_path: Path) -> None:
    from imageserver.errors import InvalidUpload
    from imageserver.format.keys import parse_key

    bad = GOOD.replace("xenial", "xe nial")
    with pytest.raises(InvalidUpload) as refusal:
        parse_key(bad)
    done = run(GOOD, bad, "--overwrite", "--state-dir", tmp_path)
    assert (done.exit_code, done.stdout) == (presign.REFUSED, "")
    assert str(refusal.value) in done.stderr


def test_presign_without_a_stack_says_how_to_get_one(tmp_path: Path) -> None:
    done = run(GOOD, "--state-dir", tmp_path)
    assert (done.exit_code, done.stdout) == (presign.NO_STACK, "")
    assert "start ./scripts/local, or name a bucket in AWS with --bucket" in done.stderr


def test_help_of_the_tests_is_ours_and_there_at_once(tmp_path: Path) -> None:
    """No packages, no checks: a bare Python says it."""
    script = environment.PROJECT / "scripts/test"
    for option in ("-h", "--help"):
        done = subprocess.run(
            (sys._base_executable, "-I", "-S", script, option), cwd=tmp_path, env={"PATH": "/nowhere"},
            capture_output=True, text=True, check=False, timeout=20,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, cli.test.HELP, "")
    assert len(cli.test.HELP.splitlines()) < 15
    for folder in set(re.findall(r"\btests/[\w./]+", cli.test.HELP)):
        assert (environment.PROJECT / folder).exists()


def test_a_read_only_clone_is_tested_without_writing_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ruff, mypy, pytest and hypothesis each keep a cache, by default in the folder that they are run in."""
    told: list[dict[str, str]] = []

    def run(command: list[str], env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        told.append(env)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(cli.test, "working_folder", lambda: tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["test"])
    monkeypatch.setenv("PYTEST_ADDOPTS", "-x")
    assert cli.test.main() == 0
    assert len(told) == 4
    for env in told:
        caches = [env["RUFF_CACHE_DIR"], env["MYPY_CACHE_DIR"], env["HYPOTHESIS_STORAGE_DIRECTORY"]]
        first, _, cache = shlex.split(env["PYTEST_ADDOPTS"])
        assert (first, cache.partition("=")[0]) == ("-x", "cache_dir")
        assert all(Path(folder).is_relative_to(tmp_path) for folder in (*caches, cache.partition("=")[2]))
